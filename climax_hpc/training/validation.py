"""Loss on a held-out period during training: the same micro-batches every time, the same value at any number of ranks.

Every micro-batch has its own element of one vector, which is summed over ranks (zero on all but those of one replica)
and then averaged in a fixed order.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed

from climax_hpc.config.training import DataConfig, PretrainConfig
from climax_hpc.data.batches import BatchBuilder, batches
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.sampler import Sampler, SourceTimes
from climax_hpc.data.segments import Segment, overlap
from climax_hpc.distributed import process_group
from climax_hpc.distributed.replicas import Replica
from climax_hpc.errors import UserError
from climax_hpc.fields.regional_grid import Domain
from climax_hpc.model.band import RowBand
from climax_hpc.training.data_setup import TrainingData, make_builder, sample_times

Loss = Callable[[Any, Any, torch.Tensor], torch.Tensor]
"""(engine, batch, latitude weights (H,)) -> scalar."""
_SEED = 0x5EED  # not train.seed: all runs with the same validation period use the same samples


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Computes the validation loss."""

    sampler: Sampler
    builders: Mapping[str, BatchBuilder]
    weight_H: torch.Tensor
    loss_of: Loss
    micro_batches_per_step: int
    batches: int

    @torch.no_grad()
    def loss(self, engine: Any, replica: Replica) -> float:
        """Mean loss of the current weights (not of their moving average), without dropout."""
        rank, ranks, band = replica.number, replica.count, replica.band
        losses = torch.zeros(
            self.batches * self.micro_batches_per_step, dtype=torch.float64, device=process_group.device()
        )
        stream = batches(self.sampler, self.builders, first_step=0, steps=self.batches, rank=rank, ranks=ranks)
        engine.eval()
        for number, (_, _, batch) in enumerate(stream):
            losses[rank + number * ranks] = self.loss_of(engine, batch, self.weight_H).double()
        engine.train()
        total = process_group.sum_over_ranks(losses)
        return (total if band is None else total / band.size).mean().item()  # of a band: see `batch_loss`


def prepare_validation(
    config: PretrainConfig,
    dataset: DataSet,
    data: TrainingData,
    loss: Loss,
    domain: Domain | None,
    band: RowBand | None = None,
) -> Validation | None:
    """Sampler and batch builders of the validation period; None without one. `domain`, `band`: as of `prepare_data`.

    Raises:
        UserError: the period contains no sample, or overlaps the training period.
    """
    period, wanted = config.data.validation_period, config.data
    if period is None:
        return None
    sources = dataset.select(wanted.sources)
    builders = {
        s.name: make_builder(
            s,
            wanted,
            data.normalisation,
            data.builders[s.name].inputs,
            data.builders[s.name].outputs,
            domain,
            data.variable_weights,
            band=band,
            augmented=False,
        )
        for s in sources
    }
    spans = {s.name: sample_times(s, wanted, period, data.builders[s.name].inputs) for s in sources}
    return validation_of(config, sources, spans, builders, data.weight_H, loss)


class SegmentSource(Protocol):
    """A source of samples: `climax_hpc.data.packed_source.PackedSource`, or one that a task builds from several."""

    @property
    def name(self) -> str:
        """The key of its samples in the sampler."""
        ...

    def within(self, period: tuple[str, str] | None) -> list[Segment]:
        """Its contiguous segments inside a period."""
        ...


def validation_of(
    config: PretrainConfig,
    sources: Sequence[SegmentSource],
    spans: Mapping[str, SourceTimes],
    builders: Mapping[str, BatchBuilder],
    weight_H: torch.Tensor,
    loss: Loss,
) -> Validation:
    """Validation of any task, on the sample times `spans` of its validation period.

    Raises:
        UserError: the period overlaps the training period of one of the sources.
    """
    data = config.data
    for source in sources:
        check_disjoint(source.name, source.within(data.period), source.within(data.validation_period), data)
    return Validation(
        sampler=validation_sampler(spans, data),
        builders=builders,
        weight_H=weight_H,
        loss_of=loss,
        micro_batches_per_step=data.micro_batches_per_step,
        batches=config.train.validation_batches,
    )


def check_disjoint(source: str, train: Sequence[Segment], held_out: Sequence[Segment], data: DataConfig) -> None:
    """Check that validation and training period do not overlap.

    Raises:
        UserError: names the period and the source.
    """
    if overlap(train, held_out):
        first, last = data.validation_period or ("", "")
        raise UserError(
            f"data.validation_period {first} … {last} overlaps the training period of source {source}: set data.period "
            "and data.validation_period to different times"
        )


def validation_sampler(spans: Mapping[str, SourceTimes], data: DataConfig) -> Sampler:
    """The order of the validation micro-batches, independent of train.seed and data.weights."""
    return Sampler(
        spans,
        seed=_SEED,
        micro_batch_size=data.micro_batch_size,
        micro_batches_per_step=data.micro_batches_per_step,
        lead_exponent=data.lead_exponent,
    )
