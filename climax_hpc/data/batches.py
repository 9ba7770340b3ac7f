"""Batches in the model's normalisation: what they hold, what builds them, and their stream through a run.

Dimensions: B samples · T input times, oldest first · K targets of a roll-out · C channels · V input variables ·
G solar inputs among them · O output variables · H, W grid, or the rows and columns of a region.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from climax_hpc.data.prefetch import read_micro_batches
from climax_hpc.data.raw_batch import BatchSpec
from climax_hpc.data.sampler import MicroBatch, Sampler
from climax_hpc.errors import UserError
from climax_hpc.fields.variables import SOLAR, lookup
from climax_hpc.model.band import RowBand
from climax_hpc.model.output_modes import network_target


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch, ready for the model; fields are normalised, NaN is missing."""

    in_variables: tuple[str, ...]
    out_variables: tuple[str, ...]
    x_BVHW: Tensor
    """Input at the time of the sample; static fields last."""
    x_BTVHW: Tensor | None
    """Input at the times before the sample, oldest first, and at that of the sample; None without history."""
    lead_hours_B: Tensor
    """Lead times [h]."""
    y_BOHW: Tensor
    """Truth at the lead time: z-scores (`full`) or normalised anomalies (`anomaly`)."""
    skip_BOHW: Tensor | None
    """Input anomalies of the output variables; None in `full` mode."""
    r_BO: Tensor | None
    """Damping of the input anomaly at the lead time; None in `full` mode."""
    s_BO: Tensor | None
    """Spread of the residual at the lead time; None in `full` mode."""
    y_BKOHW: Tensor | None = None
    """Truth at 1, 2, … K times the lead time; `y_BOHW` is the first. None without a roll-out."""
    change_scale_T11: Tensor | None = None
    """Tendency per change of the state in 6 h, in the units of the inputs, for roll-outs; None without tendencies."""
    solar_BKGHW: Tensor | None = None
    """Solar inputs of each step of a roll-out; None without a roll-out."""
    variable_weight_O: Tensor | None = None
    """Weights of the output variables in the loss; None: all count alike."""
    band: RowBand | None = None
    """The rows that the fields hold; None: all."""
    noise_keys: tuple[int, ...] = ()
    """As of `MicroBatch`."""

    def perturbed(self, change_BVHW: Tensor | None) -> "Batch":
        """The batch with this added to the input at the time of the sample; the same batch for None."""
        return self if change_BVHW is None else replace(self, x_BVHW=self.x_BVHW + change_BVHW)

    def network_target(self) -> Tensor:
        """Target (B, O, H, W) of the network's output; see `model.output_modes`."""
        if self.skip_BOHW is None or self.r_BO is None or self.s_BO is None:
            return self.y_BOHW
        return network_target(self.y_BOHW, self.skip_BOHW, self.r_BO, self.s_BO)


class VariableProvider(Protocol):
    """The variables that a source or the input of a forecast holds; what `choose_variables` needs."""

    @property
    def name(self) -> str:
        """Its name in messages and files."""
        ...

    @property
    def channels(self) -> Sequence[str]:
        """Registry names of the C dynamic variables."""
        ...

    @property
    def tendencies(self) -> Sequence[str]:
        """Registry names of the tendencies that can be computed from it."""
        ...

    @property
    def static(self) -> Mapping[str, NDArray[Any]]:
        """Static fields (H, W) by registry name."""
        ...


def choose_variables(
    source: VariableProvider,
    model_variables: Sequence[str],
    wanted_in: Sequence[str] | None,
    wanted_out: Sequence[str] | None,
) -> tuple[list[str], list[str]]:
    """Input variables (states, tendencies, solar ones, static ones) and output variables for this source.

    `wanted_in`, `wanted_out`: as `data.in_variables` and `data.out_variables`.

    Raises:
        UserError: no output variable is left.
    """
    here = [*source.channels, *source.tendencies, *SOLAR, *sorted(source.static)]
    inputs = [v for v in here if v in model_variables and (wanted_in is None or v in wanted_in)]
    inputs.sort(key=lambda v: lookup(v).static)
    outputs = [v for v in inputs if lookup(v).can_be_forecast and (wanted_out is None or v in wanted_out)]
    if not outputs:
        here = [v for v in here if not lookup(v).is_computed]
        raise UserError(
            f"source {source.name} holds {', '.join(here)}; none of them is in model.variables and selected by "
            "data.in_variables and data.out_variables: change these, or leave the source out"
        )
    return inputs, outputs


class BatchBuilder(Protocol):
    """Builds the batches of one source: `spec` says what is read, `assemble` makes a batch of it."""

    device: torch.device
    inputs: tuple[str, ...]
    """Registry names of the network's input."""
    outputs: tuple[str, ...]
    """Registry names of its output."""

    @property
    def spec(self) -> BatchSpec:
        """What is read for a micro-batch."""
        ...

    def assemble(self, micro_batch: MicroBatch, raw: Any) -> Any:
        """Batch for the loss of the task; it shares no memory with `raw`."""
        ...


def batches(
    sampler: Sampler,
    builders: Mapping[str, BatchBuilder],
    *,
    first_step: int,
    steps: int,
    rank: int,
    ranks: int,
    read_threads: int = 2,
    prefetch_micro_batches: int = 2,
    waited: Callable[[float], None] = lambda seconds: None,
) -> Iterator[tuple[int, MicroBatch, Any]]:
    """(step, micro-batch, batch) of this rank for steps first_step … steps-1, in order, read ahead.

    `rank`, `ranks`: of the replicas, whose ranks have the same micro-batches, each with the rows of its builders.
    `waited`: as of `read_micro_batches`.

    Raises:
        UserError: see `Sampler.micro_batches` and `prefetch.read_micro_batches`.
    """
    stream = read_micro_batches(
        sampler.stream(first_step, steps, rank=rank, ranks=ranks),
        {name: builder.spec for name, builder in builders.items()},
        micro_batch_size=sampler.micro_batch_size,
        device=next(iter(builders.values())).device,
        threads=read_threads,
        prefetch_micro_batches=prefetch_micro_batches,
        waited=waited,
    )
    with closing(stream):
        for step, micro_batch, raw in stream:
            yield step, micro_batch, builders[micro_batch.source].assemble(micro_batch, raw)
