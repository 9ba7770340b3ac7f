"""Stops training before a non-finite loss reaches the optimiser."""

import torch

from climax_hpc.data.order import Group
from climax_hpc.errors import UserError


def check_loss(loss: torch.Tensor, *, step: int, rank: int, group: Group) -> None:
    """Refuse a non-finite loss.

    Raises:
        UserError: names rank, step, source and samples; the last checkpoint is untouched.
    """
    if not torch.isfinite(loss):
        samples = ", ".join(f"{s.time_index}+{s.lead_steps}" for s in group.samples)
        raise UserError(
            f"loss is {loss.item()} on rank {rank} at step {step}, source {group.source}, "
            f"samples (time+lead) {samples}: the optimiser was not called, "
            "the last checkpoint is intact; lower optim.lr or check the data "
            "(`climax-hpc verify`)"
        )
