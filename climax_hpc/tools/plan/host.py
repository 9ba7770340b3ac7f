"""Host memory of the copy that a checkpoint is written from while training goes on."""

from climax_hpc.config.training import TrainConfig
from climax_hpc.training.shape import Shape

_FLOAT = 4


def checkpoint_bytes(shape: Shape, train: TrainConfig, *, per_node: int) -> float:
    """Bytes on the first node, whose rank 0 also holds the weights for evaluation.

    Args:
        per_node: ranks of a node.
    """
    n, w = shape.n, 1 / shape.ranks
    weights = float(_FLOAT * n)
    if not train.background_checkpoints:
        return weights
    masters_and_moments = _FLOAT * (3 * n - shape.in_matrices)
    if train.zero_stage == 0:  # rank 0 writes the parameters and moments of all
        return weights + masters_and_moments
    e = _FLOAT if train.precision == "float32" else 2
    parameters = e * n if train.zero_stage < 3 else 0  # stage 3 writes the partitioned masters only
    return weights + parameters + min(per_node, shape.ranks) * masters_and_moments * w
