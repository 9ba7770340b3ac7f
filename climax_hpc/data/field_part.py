"""The part of a time step that a reader asks for, and where the bytes of its chunks go.

Dimensions: C channels · H, W grid · c, h channels and rows of a part.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from climax_hpc.shards.chunk_layout import ChunkLayout

UNUSED = -1
"""Target of bytes that are read for the checksum only."""


@dataclass(frozen=True, kw_only=True)
class FieldPart:
    """Channels and rows of a time step; all columns.

    Raises:
        ValueError: channels that do not ascend, or an empty or negative range of rows.
    """

    channels: tuple[int, ...] | None = None
    """Numbers of the channels, ascending; None: all."""
    rows: tuple[int, int] | None = None
    """First row, and the row after the last one; None: all. They need not be aligned with the bands of a shard."""

    def __post_init__(self) -> None:
        c = self.channels
        if c is not None and (not c or c[0] < 0 or any(b <= a for a, b in pairwise(c))):
            raise ValueError(f"channels {c} do not ascend")
        if self.rows is not None and not 0 <= self.rows[0] < self.rows[1]:
            raise ValueError(f"rows {self.rows} are no range")

    def of(self, shape: tuple[int, int, int]) -> tuple[tuple[int, ...], tuple[int, int]]:
        """Channels and rows out of fields of a shape (C, H, W).

        Raises:
            ValueError: they reach beyond the fields.
        """
        self.shape_in(shape)
        channels = tuple(range(shape[0])) if self.channels is None else self.channels
        return channels, (0, shape[1]) if self.rows is None else self.rows

    def place(self, channel: int) -> int:
        """Place of a channel of the source in the part.

        Raises:
            ValueError: the part lacks it.
        """
        return channel if self.channels is None else self.channels.index(channel)

    def shape_in(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Shape (c, h, W) of the part of fields (C, H, W).

        Raises:
            ValueError: the part reaches beyond the fields.
        """
        channels, rows = self.channels, self.rows
        if (channels and channels[-1] >= shape[0]) or (rows and rows[1] > shape[1]):
            raise ValueError(f"channels {channels} and rows {rows} reach beyond fields of shape {shape}")
        return len(channels) if channels else shape[0], rows[1] - rows[0] if rows else shape[1], shape[2]

    def is_all(self, shape: tuple[int, int, int]) -> bool:
        """True where the part is the whole."""
        return self.shape_in(shape) == shape


ALL = FieldPart()
"""Every channel and row."""


class ChunkPieces(NamedTuple):
    """Where the bytes of one chunk go, in the order of the file."""

    number: int
    """Number of the chunk in its time step."""
    pieces: tuple[tuple[int, int], ...]
    """(first byte in the part, or UNUSED; length in bytes), one after another."""


@lru_cache(maxsize=256)
def pieces_of(layout: ChunkLayout, part: FieldPart, itemsize: int) -> tuple[ChunkPieces, ...]:
    """The chunks that hold a part of a time step, ascending, and where their bytes go in fields (c, h, W)."""
    channels, (first, stop) = part.of(layout.shape)
    place = {channel: k for k, channel in enumerate(channels)}
    row = layout.shape[2] * itemsize
    found = []
    for number in range(layout.per_step):
        block, band = layout.cells_of(number)
        lower, upper = max(first, band.start), min(stop, band.stop)
        if lower >= upper or not any(channel in place for channel in range(block.start, block.stop)):
            continue
        pieces: list[tuple[int, int]] = []
        for channel in range(block.start, block.start + layout.channels):
            if channel not in place:
                _append(pieces, UNUSED, layout.rows * row)
                continue
            target = (place[channel] * (stop - first) + lower - first) * row
            _append(pieces, UNUSED, (lower - band.start) * row)
            _append(pieces, target, (upper - lower) * row)
            _append(pieces, UNUSED, (band.start + layout.rows - upper) * row)
        found.append(ChunkPieces(number, tuple(pieces)))
    return tuple(found)


def chunks_of(layout: ChunkLayout, parts: Iterable[FieldPart]) -> set[int]:
    """Numbers of the chunks of a time step that hold any of these parts of it."""
    return {chunk.number for part in parts for chunk in pieces_of(layout, part, 1)}


def _append(pieces: list[tuple[int, int]], target: int, length: int) -> None:
    """Add a piece, joined with the last one where both lie side by side."""
    if not length:
        return
    if pieces:
        before, size = pieces[-1]
        if before == target == UNUSED or (UNUSED not in (before, target) and before + size == target):
            pieces[-1] = (before, size + length)
            return
    pieces.append((target, length))
