"""What is checked before every optimiser step, by all ranks together in one reduction: is the loss finite, are the
gradients, does a rank want to stop? And after it: is the loss a spike?
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn

from climax_hpc.data.sampler import MicroBatch
from climax_hpc.distributed import process_group
from climax_hpc.distributed.launcher import OtherRankFailed
from climax_hpc.errors import UserError

WINDOW = 100
"""Steps whose losses say what is usual."""
_FEWEST = 20  # a median of fewer says little
_FLOOR = 0.05  # of the median: losses that hardly vary are no reason to call a small rise a spike


class GradientNorms:
    """Norms of the gradients of one backward pass, as each comes out of autograd on this rank.

    A tensor hook runs before DeepSpeed reduces, clips or partitions, at any ZeRO stage: what it sees belongs to this
    rank and this batch.
    """

    def __init__(self, model: nn.Module) -> None:
        self._norms: list[torch.Tensor] = []
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_hook(self._note)

    def _note(self, gradient: torch.Tensor) -> None:
        self._norms.append(torch.linalg.vector_norm(gradient, dtype=torch.float32))

    def take(self) -> torch.Tensor:
        """Sum of the norms since the last call; not finite where a gradient is not."""
        total = torch.stack(self._norms).sum()
        self._norms.clear()
        return total


@dataclass(frozen=True, kw_only=True)
class StepStatus:
    """What all ranks know of a global batch."""

    loss: torch.Tensor
    """Mean over all micro-batches of all ranks."""
    stop: bool
    """Some rank received a stop signal."""


@dataclass(frozen=True, kw_only=True)
class _Pass:
    micro_batch: MicroBatch
    loss: torch.Tensor
    gradient_norm: torch.Tensor | None


class StepGuard:
    """Collects the passes of a step, then lets all ranks agree on them; nothing waits for the device in between."""

    def __init__(self, model: nn.Module, *, micro_batches: int, rank: int, check_gradients: bool) -> None:
        """`micro_batches`: of this rank in a step; `check_gradients`: not for float16, whose scaler expects inf."""
        self._micro_batches, self._rank = micro_batches, rank
        self._norms = GradientNorms(model) if check_gradients else None
        self._passes: list[_Pass] = []

    def add(self, micro_batch: MicroBatch, loss: torch.Tensor) -> bool:
        """Take note of a forward and backward pass; True when it was the step's last."""
        norm = self._norms.take() if self._norms else None
        self._passes.append(_Pass(micro_batch=micro_batch, loss=loss.detach(), gradient_norm=norm))
        return len(self._passes) == self._micro_batches

    def agree(self, step: int, *, stop: bool) -> StepStatus:
        """Mean loss and stop wish of all ranks; called by all ranks before the optimiser step.

        Raises:
            UserError: a loss or gradient of this rank is not finite; names rank, step, source and samples.
            OtherRankFailed: one of another rank is not.
        """
        passes, self._passes = self._passes, []
        mine = torch.zeros(3, device=process_group.device())
        for done in passes:
            mine[0] += done.loss / self._micro_batches
            mine[1] += ~torch.isfinite(done.loss)
            if done.gradient_norm is not None:
                mine[1] += ~torch.isfinite(done.gradient_norm)
        mine[2] = stop
        loss, faults, stops = process_group.sum_over_ranks(mine)
        if faults:
            self._refuse(passes, step)
        return StepStatus(loss=loss / torch.distributed.get_world_size(), stop=bool(stops))

    def _refuse(self, passes: Sequence[_Pass], step: int) -> None:
        for done in passes:
            if not torch.isfinite(done.loss):
                raise UserError(_message("loss", done.loss, done.micro_batch, step, self._rank))
            if done.gradient_norm is not None and not torch.isfinite(done.gradient_norm):
                raise UserError(_message("gradient norm", done.gradient_norm, done.micro_batch, step, self._rank))
        raise OtherRankFailed


def _message(what: str, value: torch.Tensor, micro_batch: MicroBatch, step: int, rank: int) -> str:
    samples = ", ".join(f"{s.time_index}+{s.lead_steps}" for s in micro_batch.samples)
    return (
        f"{what} is {value.item()} on rank {rank} at step {step}, source {micro_batch.source}, "
        f"samples (time+lead) {samples}"
        ": the optimiser was not called, the last checkpoint is intact; lower optimizer.lr or check the data "
        "(`climax-hpc verify`)"
    )


def is_spike(loss: float, recent: Sequence[float], factor: float) -> bool:
    """Does a loss lie more than `factor` robust standard deviations (1.4826·MAD) above the median of recent ones?

    False where fewer than 20 losses are known, and always for `factor` 0.
    """
    if not factor or len(recent) < _FEWEST:
        return False
    usual = median(recent)
    spread = max(1.4826 * median(abs(known - usual) for known in recent), _FLOOR * abs(usual))
    return loss > usual + factor * spread


def remember(recent: Sequence[float], loss: float) -> list[float]:
    """The last `WINDOW` losses with a new one."""
    return list(deque([*recent, loss], maxlen=WINDOW))
