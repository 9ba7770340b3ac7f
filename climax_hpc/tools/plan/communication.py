"""Bytes that every device sends in one optimiser step, by ZeRO stage, and the time they take.

Ring algorithms: an all-reduce of b bytes sends 2·b·(R-1)/R from every one of R ranks, a reduce-scatter or an all-gather
half of that (Patarasuk & Yuan 2009). What is reduced and gathered at each stage: Rajbhandari et al. 2020, §7.
"""

from dataclasses import dataclass

from climax_hpc.config.training import TrainConfig
from climax_hpc.tools.plan.shape import Shape

_LIVE_PARAMETERS = 1e9  # DeepSpeed's stage3_max_live_parameters and stage3_max_reuse_distance


@dataclass(frozen=True, kw_only=True)
class Communication:
    """Bytes that one device sends in one step."""

    gradients: float
    parameters: float

    @property
    def total(self) -> float:
        """Both."""
        return self.gradients + self.parameters


def step_communication(shape: Shape, train: TrainConfig) -> Communication:
    """Volume of one optimiser step; 0 for one rank."""
    e, n = 4 if train.precision == "float32" else 2, shape.n
    once = (shape.ranks - 1) / shape.ranks
    passes = shape.micro_batches_per_rank
    if train.zero_stage == 0:
        return Communication(gradients=2 * 4 * n * once, parameters=0.0)
    if train.zero_stage == 1:
        # float32 gradients all reduced whole in half precision (BF16_Optimizer), else reduced to their owners.
        return Communication(gradients=4 * n * once * (1 if e == 4 else 2), parameters=e * n * once)
    if train.zero_stage == 2:
        return Communication(gradients=e * n * once * passes, parameters=e * n * once)
    gathers = passes * (1 if n < _LIVE_PARAMETERS else 2)  # a parameter needed again soon is kept for the backward pass
    return Communication(gradients=e * n * once * passes, parameters=e * n * once * gathers)


def seconds(volume: float, *, nodes: int, ranks: int, link: float, network: float) -> float:
    """Time of a volume: the slowest hop of the ring sets the pace, the network where there are several nodes."""
    if ranks == 1:
        return 0.0
    return volume / (network if nodes > 1 else link)
