"""Whole matrices from the pieces that ranks hold of them, and their results back to the pieces.

ZeRO gives each rank pieces of flat parameters. Every matrix has an owner among the ranks that hold a piece, chosen so
that the work is shared evenly. It gets the pieces that it lacks, computes, and sends each rank its part of the result:
two all-to-all exchanges, which are left out where no matrix needs them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor

from climax_hpc.distributed import process_group

ROUND = 2**24
"""Elements of one owner that are exchanged and computed together; bounds the memory for temporaries."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """A piece of a matrix on one rank."""

    tensor: int
    """Which of the tensors of the group holds it."""
    place: int
    """Its first element in that tensor, flattened."""
    start: int
    """Its first element in the matrix or parameter, row by row."""
    size: int

    def within(self, first: int, size: int) -> "Held | None":
        """The piece of `size` elements of the parameter from element `first` on."""
        start, end = max(self.start, first), min(self.start + self.size, first + size)
        if start >= end:
            return None
        return Held(tensor=self.tensor, place=self.place + start - self.start, start=start - first, size=end - start)


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Size of a matrix, and the piece of it on every rank; None where a rank has none."""

    rows: int
    columns: int
    held: tuple[Held | None, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.rows * self.columns

    @property
    def work(self) -> int:
        """What the products of a matrix with its transpose cost, up to a factor."""
        return self.size * min(self.rows, self.columns)

    def is_whole_on(self, rank: int) -> bool:
        """True if the rank holds all of it."""
        piece = self.held[rank]
        return piece is not None and piece.size == self.size


Compute = Callable[[list[Tensor]], list[Tensor]]
"""Results of matrices, in the same shapes."""


class MatrixExchange:
    """Replaces matrices by their results, wherever their pieces are."""

    def __init__(self, matrices: Sequence[Matrix], *, rank: int) -> None:
        """`matrices`: the same on all ranks; `rank`: this one."""
        rounds: dict[int, list[tuple[Matrix, int]]] = {}
        filled: dict[int, int] = {}
        for matrix, owner in zip(matrices, owners(matrices), strict=True):
            rounds.setdefault(filled.get(owner, 0) // ROUND, []).append((matrix, owner))
            filled[owner] = filled.get(owner, 0) + matrix.size
        self._rounds = [_Round(owned, rank) for _, owned in sorted(rounds.items())]

    def run(self, tensors: Sequence[Tensor], compute: Compute, dtype: torch.dtype) -> None:
        """Replace every matrix in the flat `tensors` by what its owner computes; all ranks call this together.

        Args:
            dtype: of the results of `compute`.
        """
        for each in self._rounds:
            each.distribute(tensors, compute(each.collect(tensors)), dtype)


def owners(matrices: Sequence[Matrix]) -> list[int]:
    """Owner of each matrix: the rank with the least work among those that hold a piece."""
    holders = [[rank for rank, piece in enumerate(matrix.held) if piece] for matrix in matrices]
    work = [0] * max((len(matrix.held) for matrix in matrices), default=0)
    found = [0] * len(matrices)
    for index in sorted(range(len(matrices)), key=lambda i: (len(holders[i]), -matrices[i].work)):
        found[index] = min(holders[index], key=lambda rank: work[rank])
        work[found[index]] += matrices[index].work
    return found


class _Round:
    """Matrices that are exchanged together."""

    def __init__(self, owned: Sequence[tuple[Matrix, int]], rank: int) -> None:
        ranks = range(len(owned[0][0].held))
        self._rank = rank
        self._mine = [matrix for matrix, owner in owned if owner == rank]
        split = [(matrix, owner) for matrix, owner in owned if not matrix.is_whole_on(owner)]
        self._collects = bool(split)
        self._distributes = any(piece and other != owner for m, owner in owned for other, piece in enumerate(m.held))
        # By rank: the pieces that it owns and this one holds, of split matrices and of all.
        self._sent = [_pieces([m for m, o in split if o == r and r != rank], rank) for r in ranks]
        self._back = [_pieces([m for m, o in owned if o == r and r != rank], rank) for r in ranks]
        # By rank: the pieces that it holds and this one owns.
        self._asked = [_pieces(self._mine if r != rank else [], r) for r in ranks]
        self._missing = [[(i, p) for i, p in asked if not self._mine[i].is_whole_on(rank)] for asked in self._asked]

    def collect(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The matrices that this rank owns, on its device."""
        device = process_group.device()
        pieces: list[list[tuple[int, Tensor]]] = []
        for matrix in self._mine:
            piece = matrix.held[self._rank]
            assert piece, "an owner holds a piece"
            pieces.append([(piece.start, _slice(tensors, piece).to(device))])
        if self._collects:
            sizes = [[piece.size for _, piece in missing] for missing in self._missing]
            sent = [[_slice(tensors, piece) for _, piece in held] for held in self._sent]
            for missing, received in zip(self._missing, _swap(sent, sizes, tensors[0].dtype), strict=True):
                for (index, piece), part in zip(missing, received, strict=True):
                    pieces[index].append((piece.start, part))
        whole = (
            parts[0][1] if len(parts) == 1 else torch.cat([part for _, part in sorted(parts, key=lambda part: part[0])])
            for parts in pieces
        )
        return [each.view(m.rows, m.columns) for m, each in zip(self._mine, whole, strict=True)]

    def distribute(self, tensors: Sequence[Tensor], results: Sequence[Tensor], dtype: torch.dtype) -> None:
        """Write the results of all owners into the pieces."""
        for matrix, result in zip(self._mine, results, strict=True):
            piece = matrix.held[self._rank]
            assert piece, "an owner holds a piece"
            _slice(tensors, piece).copy_(_part(result, piece))
        if self._distributes:
            sizes = [[piece.size for _, piece in back] for back in self._back]
            sent = [[_part(results[index], piece) for index, piece in asked] for asked in self._asked]
            for back, received in zip(self._back, _swap(sent, sizes, dtype), strict=True):
                for (_, piece), part in zip(back, received, strict=True):
                    _slice(tensors, piece).copy_(part)


def _pieces(matrices: Sequence[Matrix], rank: int) -> list[tuple[int, Held]]:
    """The pieces of the matrices on a rank, with the number of the matrix."""
    return [(index, piece) for index, matrix in enumerate(matrices) if (piece := matrix.held[rank])]


def _slice(tensors: Sequence[Tensor], piece: Held) -> Tensor:
    return tensors[piece.tensor].narrow(0, piece.place, piece.size)


def _part(result: Tensor, piece: Held) -> Tensor:
    return result.reshape(-1).narrow(0, piece.start, piece.size)


def _swap(sent: list[list[Tensor]], sizes: list[list[int]], dtype: torch.dtype) -> list[list[Tensor]]:
    """Send a list of flat tensors to every rank; the tensors of given sizes that every rank sends to this one."""
    device = process_group.device()
    outgoing = torch.cat([torch.empty(0, dtype=dtype, device=device), *(t.to(device) for row in sent for t in row)])
    incoming = torch.empty(sum(map(sum, sizes)), dtype=dtype, device=device)
    torch.distributed.all_to_all_single(
        incoming,
        outgoing,
        output_split_sizes=[sum(row) for row in sizes],
        input_split_sizes=[sum(t.numel() for t in row) for row in sent],
    )
    parts = iter(incoming.split([size for row in sizes for size in row]))
    return [[next(parts) for _ in row] for row in sizes]
