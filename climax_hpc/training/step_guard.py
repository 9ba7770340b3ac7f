"""Checks before every optimiser step, by all ranks in one reduction: are loss and gradients finite, was a stop asked?

After the step, `is_spike` checks the mean loss.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from statistics import median
from typing import Any

import numpy as np
import torch

from climax_hpc.data.sampler import MicroBatch
from climax_hpc.distributed import process_group
from climax_hpc.errors import UserError
from climax_hpc.training.deepspeed_step import norms, watch_gradients

WINDOW = 100
"""Number of recent losses that a new loss is compared with."""
_FEWEST = 20  # the median of fewer losses is too noisy
_FLOOR = 0.05  # of the median: with nearly constant losses a small rise is no spike


class GradientNorms:
    """Norms of this rank's gradients, taken before DeepSpeed reduces, clips or partitions them, at any ZeRO stage."""

    def __init__(self, engine: Any) -> None:
        self._norms: list[torch.Tensor] = []
        watch_gradients(engine, self._add)

    def _add(self, gradients: list[torch.Tensor]) -> None:
        self._norms.append(norms(gradients).sum())

    def take(self) -> torch.Tensor:
        """Sum of the norms since the last call; not finite if any gradient of the pass is not."""
        total = reduce(torch.add, self._norms)
        self._norms.clear()
        return total


@dataclass(frozen=True, kw_only=True)
class StepStatus:
    """What all ranks together know of one optimiser step."""

    loss: float
    """Mean over all micro-batches of all ranks."""
    stop: bool
    """A rank received a stop signal."""


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """One forward and backward pass of this rank."""

    micro_batch: MicroBatch
    loss: torch.Tensor
    gradient_norm: torch.Tensor | None


class StepGuard:
    """Collects the passes of a step, then checks them together with all ranks.

    The host waits for the device once, in `check`: later it could not keep a number that is not finite out of the
    weights.
    """

    def __init__(self, engine: Any, *, micro_batches: int, rank: int, check_gradients: bool) -> None:
        """`micro_batches`: number on this rank in one optimiser step."""
        self._micro_batches, self._rank = micro_batches, rank
        self._norms = GradientNorms(engine) if check_gradients else None
        self._passes: list[_Pass] = []

    def add(self, micro_batch: MicroBatch, loss: torch.Tensor) -> None:
        """Record a forward and backward pass."""
        norm = self._norms.take() if self._norms else None
        self._passes.append(_Pass(micro_batch=micro_batch, loss=loss.detach(), gradient_norm=norm))

    @property
    def complete(self) -> bool:
        """True once all passes of the step are recorded."""
        return len(self._passes) == self._micro_batches

    def check(self, step: int, *, stop: bool) -> StepStatus:
        """Mean loss of all ranks and whether any wants to stop; all ranks call this before the optimiser step.

        Raises:
            UserError: a loss or gradient of this rank is not finite, and of none before it; names rank, step, source
                and samples.
            OtherRankFailed: one of another rank is not finite.
        """
        passes, self._passes = self._passes, []
        mean = reduce(torch.add, [done.loss / self._micro_batches for done in passes])
        numbers = [done.loss for done in passes]
        numbers += [done.gradient_norm for done in passes if done.gradient_norm is not None]
        faults = (~torch.isfinite(torch.stack(numbers))).sum()
        shared = torch.stack([mean, faults, torch.full_like(faults, stop)])
        torch.distributed.all_reduce(shared)
        loss, faulty, stops = shared.tolist()  # the only wait of a step
        if faulty:  # on all ranks of a replica that share a sample: one reports it
            process_group.on_all(lambda: self._refuse(passes, step))
        ranks = torch.distributed.get_world_size()
        return StepStatus(loss=float(np.float32(loss) / np.float32(ranks)), stop=bool(stops))

    def _refuse(self, passes: Sequence[_Pass], step: int) -> None:
        for done in passes:
            if not torch.isfinite(done.loss):
                raise UserError(_message("loss", done.loss, done.micro_batch, step, self._rank))
            if done.gradient_norm is not None and not torch.isfinite(done.gradient_norm):
                raise UserError(_message("gradient norm", done.gradient_norm, done.micro_batch, step, self._rank))


def _message(what: str, value: torch.Tensor, micro_batch: MicroBatch, step: int, rank: int) -> str:
    samples = ", ".join(f"{s.time_index}+{s.lead_steps}" for s in micro_batch.samples)
    return (
        f"{what} is {value.item()} on rank {rank} at step {step}, source {micro_batch.source}, "
        f"samples (time+lead) {samples}"
        ": the optimiser step was not taken, the last checkpoint is intact; lower optimizer.lr or check the data "
        "(`climax-hpc verify`)"
    )


def is_spike(loss: float, recent: Sequence[float], factor: float) -> bool:
    """True if a loss is more than `factor` robust standard deviations (1.4826·MAD) above the median of recent ones.

    False with fewer than 20 recent losses, and always for `factor` 0.
    """
    if not factor or len(recent) < _FEWEST:
        return False
    usual = median(recent)
    spread = max(1.4826 * median(abs(known - usual) for known in recent), _FLOOR * abs(usual))
    return loss > usual + factor * spread


def append_recent(recent: Sequence[float], loss: float) -> list[float]:
    """The last `WINDOW` losses including a new one."""
    return list(deque([*recent, loss], maxlen=WINDOW))
