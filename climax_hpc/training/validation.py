"""Loss on a held-out period during training: the same groups every time, the same value at any number of ranks.

Every group's loss lands at its own place of one vector, which is summed over ranks (all others hold zero there) and
then averaged in one order.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed

from climax_hpc.config.training import DataConfig, PretrainConfig
from climax_hpc.data.batches import Maker, batches
from climax_hpc.data.dataset import DataSet, Stretch, overlap
from climax_hpc.data.sampler import SampleOrder, SourceTimes
from climax_hpc.distributed import process_group
from climax_hpc.errors import UserError
from climax_hpc.fields.regional_grid import Domain
from climax_hpc.training.data_setup import TrainingData, make_maker, sample_times

Loss = Callable[[Any, Any, torch.Tensor], torch.Tensor]
"""(engine, batch, latitude weights (H,)) -> scalar."""
_SEED = 0x5EED  # of its own: every run on the same period is validated on the same samples


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What is needed to compute the validation loss."""

    order: SampleOrder
    makers: Mapping[str, Maker]
    weight_H: torch.Tensor
    loss_of: Loss
    groups_per_batch: int
    batches: int

    @torch.no_grad()
    def loss(self, engine: Any) -> float:
        """Mean latitude-weighted loss of the weights being trained (not their average), without dropout."""
        rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
        losses = torch.zeros(self.batches * self.groups_per_batch, dtype=torch.float64, device=process_group.device())
        stream = batches(self.order, self.makers, first_step=0, steps=self.batches, rank=rank, ranks=ranks)
        engine.eval()
        for number, (_, _, batch) in enumerate(stream):
            losses[rank + number * ranks] = self.loss_of(engine, batch, self.weight_H).double()
        engine.train()
        return process_group.sum_over_ranks(losses).mean().item()


def prepare_validation(
    config: PretrainConfig, dataset: DataSet, data: TrainingData, loss: Loss, domain: Domain | None
) -> Validation | None:
    """Order and batch makers of the validation period; None where there is none.

    Raises:
        UserError: the period holds no sample, or overlaps the training period.
    """
    period, wanted = config.data.validation_period, config.data
    if period is None:
        return None
    sources = dataset.select(wanted.sources)
    makers = {
        s.name: make_maker(
            s,
            wanted,
            data.normalisation,
            data.makers[s.name].inputs,
            data.makers[s.name].outputs,
            domain,
            augmented=False,
        )
        for s in sources
    }
    spans = {s.name: sample_times(s, wanted, period) for s in sources}
    return validation_of(config, sources, spans, makers, data.weight_H, loss)


class Dated(Protocol):
    """A source of samples: `climax_hpc.data.dataset.Source`, or what a task makes of several."""

    @property
    def name(self) -> str:
        """The key of its samples in the order."""
        ...

    def within(self, period: tuple[str, str] | None) -> list[Stretch]:
        """Its stretches without a gap inside a period."""
        ...


def validation_of(
    config: PretrainConfig,
    sources: Sequence[Dated],
    spans: Mapping[str, SourceTimes],
    makers: Mapping[str, Maker],
    weight_H: torch.Tensor,
    loss: Loss,
) -> Validation:
    """The validation of any task on the `spans` of its validation period.

    Raises:
        UserError: the period overlaps the training period of one of the sources.
    """
    data = config.data
    for source in sources:
        check_apart(source.name, source.within(data.period), source.within(data.validation_period), data)
    return Validation(
        order=validation_order(spans, data),
        makers=makers,
        weight_H=weight_H,
        loss_of=loss,
        groups_per_batch=data.groups_per_step,
        batches=config.train.validation_batches,
    )


def check_apart(source: str, train: Sequence[Stretch], held_out: Sequence[Stretch], data: DataConfig) -> None:
    """Refuse a validation period that overlaps the training period.

    Raises:
        UserError: names the period and the source.
    """
    if overlap(train, held_out):
        first, last = data.validation_period or ("", "")
        raise UserError(
            f"data.validation_period {first} … {last} overlaps the training period of source {source}: set data.period "
            "and data.validation_period to different times"
        )


def validation_order(spans: Mapping[str, SourceTimes], data: DataConfig) -> SampleOrder:
    """The order of the validation groups: whatever the run's seed, and all sources alike."""
    return SampleOrder(
        spans,
        seed=_SEED,
        group_size=data.group_size,
        groups_per_step=data.groups_per_step,
        lead_exponent=data.lead_exponent,
    )
