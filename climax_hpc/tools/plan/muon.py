"""Memory and arithmetic of Muon's orthogonal steps (`climax_hpc/training/muon.py`). Dimensions as in `shape.py`."""

from collections import Counter

from climax_hpc.training.matrix_exchange import ROUND
from climax_hpc.training.muon import BATCH, ITERATIONS
from climax_hpc.training.shape import Shape

_FLOAT = 4
ELEMENT_BYTES = 64
"""Traffic of an element of a matrix: two interpolations of the momentum, its norm and copy, decay and step."""


def muon_bytes(shape: Shape, stage: int, cuda: bool) -> float:
    """Temporaries: the results of a round, the products of a batch, and what a round sends and gets."""
    if not shape.matrices:
        return 0.0
    e = 2 if cuda else _FLOAT
    in_round = min(shape.in_matrices / shape.ranks, max(ROUND, max(rows * columns for rows, columns in shape.matrices)))
    work = done = 0.0
    for size, count in Counter(shape.matrices).items():
        elements = size[0] * size[1]
        of_size = min(max(elements, elements * count / shape.ranks), in_round)
        in_batch = max(elements, min(of_size, BATCH))
        # The stacked matrices in float32, two iterates, and two products with a transpose.
        batch = in_batch * (_FLOAT + 2 * e + 2 * e * min(size) / max(size))
        work = max(work, min(done + e * (of_size - in_batch), e * in_round) + batch)
        done += e * of_size
    if shape.ranks == 1:
        return work
    if stage == 0:
        return work + 2 * e * in_round * (shape.ranks - 1)
    return work + (2 * _FLOAT + e) * in_round if stage == 3 else work


def muon_flop(shape: Shape) -> float:
    """FLOP of all iterations of a step, which the ranks share: three products each of R rows and C ≥ R columns."""
    sizes = [(min(size), max(size)) for size in shape.matrices]
    return float(sum(ITERATIONS * (4 * rows**2 * columns + 2 * rows**3) for rows, columns in sizes))
