"""How `/fields` of a shard is cut into chunks: a time step, or a block of channels × a band of rows of it.

Shapes: C channels, H rows, W columns.
"""

import re
from dataclasses import dataclass

from climax_hpc.errors import UserError

AUTO, STEP = "auto", "step"
_TARGET_BYTES = 1 << 20
_MOST_BYTES = 4 << 20  # a step of at most this size is one chunk
_BLOCKS_PER_BAND = 16  # bands double while a step has at least this many blocks of channels for each band
_EXPLICIT = re.compile(r"([1-9]\d{0,5})x([1-9]\d{0,5})")


@dataclass(frozen=True, kw_only=True)
class ChunkLayout:
    """The chunks of one time step. They are numbered by block of channels, then by band of rows.

    The last block and the last band may reach beyond the fields: HDF5 stores chunks of one size. What lies beyond is
    stored as NaN and covered by the checksum.
    """

    shape: tuple[int, int, int]
    """(C, H, W) of a time step."""
    channels: int
    """Channels of a block."""
    rows: int
    """Rows of a band."""

    @property
    def blocks(self) -> int:
        """Number of blocks of channels."""
        return -(-self.shape[0] // self.channels)

    @property
    def bands(self) -> int:
        """Number of bands of rows."""
        return -(-self.shape[1] // self.rows)

    @property
    def per_step(self) -> int:
        """Chunks of a time step."""
        return self.blocks * self.bands

    @property
    def is_whole(self) -> bool:
        """True where a time step is one chunk: version 1 of the format."""
        return self.per_step == 1

    @property
    def chunk_shape(self) -> tuple[int, int, int]:
        """Shape of every chunk without its time axis, as stored."""
        return self.channels, self.rows, self.shape[2]

    @property
    def chunk_cells(self) -> int:
        """Numbers in a chunk, as stored."""
        return self.channels * self.rows * self.shape[2]

    def cells_of(self, number: int) -> tuple[slice, slice]:
        """Channels and rows of a chunk of a time step, within the fields."""
        block, band = divmod(number, self.bands)
        first_channel, first_row = block * self.channels, band * self.rows
        return (
            slice(first_channel, min(first_channel + self.channels, self.shape[0])),
            slice(first_row, min(first_row + self.rows, self.shape[1])),
        )


def check_chunks(chunks: str) -> None:
    """Refuse a value of the key `chunks` that is none.

    Raises:
        UserError: neither `auto`, `step` nor channels x rows.
    """
    if chunks not in (AUTO, STEP) and not _EXPLICIT.fullmatch(chunks):
        raise UserError(
            f"chunks: {chunks!r} is not auto, step (one chunk per time step) or channels x rows of a chunk, for "
            "example 1x180"
        )


def choose_layout(shape: tuple[int, int, int], itemsize: int, chunks: str = AUTO) -> ChunkLayout:
    """The layout for fields of a shape (C, H, W) and bytes per number.

    `chunks`: `step`, one chunk per time step; `CxR`, C channels and R rows at most; `auto`, by size: one chunk for a
    step of at most 4 MiB, else chunks of about 1 MiB.

    Raises:
        UserError: see `check_chunks`.
    """
    check_chunks(chunks)
    channels, rows, columns = shape
    if explicit := _EXPLICIT.fullmatch(chunks):
        return ChunkLayout(shape=shape, channels=min(int(explicit[1]), channels), rows=min(int(explicit[2]), rows))
    row_bytes = columns * itemsize
    step_bytes = channels * rows * row_bytes
    if chunks == STEP or step_bytes <= _MOST_BYTES:
        return ChunkLayout(shape=shape, channels=channels, rows=rows)
    count, bands = -(-step_bytes // _TARGET_BYTES), 1
    while count >= _BLOCKS_PER_BAND * (2 * bands) ** 2:
        bands *= 2
    if -(-rows // bands) * row_bytes > _MOST_BYTES:  # few channels on a fine grid
        bands = -(-rows * row_bytes // _TARGET_BYTES)
    band_rows = max(1, -(-rows // bands))
    blocks = -(-channels // max(1, round(_TARGET_BYTES / (band_rows * row_bytes))))
    return ChunkLayout(shape=shape, channels=-(-channels // blocks), rows=band_rows)
