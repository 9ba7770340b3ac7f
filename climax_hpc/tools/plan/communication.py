"""Bytes that each device sends in one optimiser step, by ZeRO stage, and the time that takes.

Ring algorithms: in an all-reduce of b bytes each of R ranks sends 2·b·(R-1)/R, in a reduce-scatter or an all-gather
half of that (Patarasuk & Yuan 2009). Which tensors each stage reduces and gathers: Rajbhandari et al. 2020, §7. Of S
ranks that share a sample each sends (S-1)/S of its part of queries, keys, values and output, forward and backward.
Ranks that share a second copy of the parameters gather them once in a step from all ranks (Wang et al. 2023, §3.2).
"""

from dataclasses import dataclass, replace

from climax_hpc.config.training import TrainConfig
from climax_hpc.training.second_copy import copy_ranks
from climax_hpc.training.shape import Shape

_LIVE_PARAMETERS = 1e9  # DeepSpeed's stage3_max_live_parameters and stage3_max_reuse_distance


@dataclass(frozen=True, kw_only=True)
class Communication:
    """Bytes that one device sends in one step."""

    gradients: float
    parameters: float
    """Between all ranks."""
    second_copy: float = 0.0
    """Parameters gathered again, between the ranks that share a second copy of them."""
    attention: float = 0.0
    """Heads and patches, between the ranks that share a sample."""
    halo_rows: float = 0.0
    """Rows at the edges of bands that convolutions need, between those ranks."""


def step_communication(shape: Shape, train: TrainConfig) -> Communication:
    """Bytes sent in one optimiser step; 0 for one rank."""
    e, passes = 4 if train.precision == "float32" else 2, 3 if shape.model.activation_checkpointing else 2
    shared = shape.micro_batches_per_rank * passes * e
    sent = _of_parameters(shape, train)
    if shape.model.blocks == "conv":
        return replace(sent, halo_rows=shared * _halo_cells(shape.of_trunk))
    return replace(sent, attention=shared * shape.model.depth * _attention_cells(shape.of_trunk))


def _attention_cells(shape: Shape) -> float:
    """Numbers that a rank sends in the forward pass of one attention: queries, keys, values and the result."""
    return 4 * shape.R * shape.D * (shape.sequence - 1) / shape.sequence


def _halo_cells(shape: Shape) -> float:
    """Numbers that a rank between two others sends in one forward pass: a row to each, for each 3 × 3 convolution."""
    if shape.sequence == 1:
        return 0.0
    per_row = [shape.B * columns * shape.D for _, columns in shape.grids]
    blocks = [*per_row, *per_row[-2::-1]]
    return shape.model.depth * sum(2 * 2 * row for row in blocks)


def _of_parameters(shape: Shape, train: TrainConfig) -> Communication:
    e, n = 4 if train.precision == "float32" else 2, shape.n
    once = (shape.ranks - 1) / shape.ranks
    passes = shape.micro_batches_per_rank
    if train.zero_stage == 0:
        return Communication(gradients=2 * 4 * n * once, parameters=0.0)
    if train.zero_stage < 3:  # DeepSpeed all-reduces gradients here too, in float32, at stage 2 after every pass
        return Communication(
            gradients=2 * 4 * n * once * (passes if train.zero_stage == 2 else 1), parameters=e * n * once
        )
    gathers = passes * (1 if n < _LIVE_PARAMETERS else 2)  # DeepSpeed keeps a parameter that is needed again soon
    group = copy_ranks(train, shape.ranks)
    further = gathers - 1 if group > 1 else 0
    return Communication(
        gradients=4 * n * once * passes,
        parameters=e * n * once * (gathers - further),
        second_copy=e * n * (group - 1) / group * further,
    )


def seconds(volume: float, *, nodes: int, ranks: int, link: float, network: float) -> float:
    """Time to send `volume` bytes [s], limited by the slowest hop of the ring: the network between several nodes."""
    if ranks == 1:
        return 0.0
    return volume / (network if nodes > 1 else link)
