"""The micro-batch that fills a device and keeps the global batch, for devices with the usual sizes of memory."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from climax_hpc.tools.plan.memory import Memory
from climax_hpc.training.shape import Shape

MEMORY_GB = (16, 24, 40, 64, 80, 141)
"""Memory of the GPUs in use: workstations (16, 24), A100 (40, 80), a half of MI250X (64), H100 (80), H200 (141)."""
MOST_SAMPLES = 65_536
"""Bound of data.micro_batch_size."""


@dataclass(frozen=True, kw_only=True)
class Filling:
    """The settings that fill a device of this memory [GB], and the bytes that they take; None if nothing fits."""

    memory_gb: float
    micro_batch_size: int | None
    micro_batches_per_step: int | None
    bytes: float | None


def fillings(shape: Shape, memory_of: Callable[[Shape], Memory], *, reserve: float) -> list[Filling]:
    """The filling of every size of memory, less the share `reserve`.

    The samples of a step stay the same, and every device takes its share of them in passes of equal size.
    """
    share = shape.B * shape.micro_batches_per_rank
    sizes = [B for B in range(min(share, MOST_SAMPLES), 0, -1) if share % B == 0]
    shapes = [replace(shape, B=B, micro_batches_per_rank=share // B) for B in sizes]
    needs = [(one, memory_of(one).total) for one in shapes]
    return [_filling(gb, needs, gb * 1e9 * (1 - reserve)) for gb in MEMORY_GB]


def _filling(memory_gb: float, needs: list[tuple[Shape, float]], available: float) -> Filling:
    shape, need = next(((one, need) for one, need in needs if need <= available), (None, None))
    return Filling(
        memory_gb=memory_gb,
        micro_batch_size=shape.B if shape else None,
        micro_batches_per_step=shape.micro_batches_per_rank * shape.ranks // shape.sequence if shape else None,
        bytes=need,
    )
