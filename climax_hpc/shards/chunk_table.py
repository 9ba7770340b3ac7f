"""Offsets of the chunks of a shard, and a checksum of all bytes outside them.

`/checksum` protects the chunks. The header checksum, kept in the manifest, protects the rest: coordinates and HDF5's
index, and all of a file without chunks. T time steps (or K entries of a climatology).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from climax_hpc.shards.shard import open_shard
from climax_hpc.utils.files import open_plain

_BLOCK = 1 << 22


class ChunkTable(NamedTuple):
    """Offset and size of each stored chunk of `/fields`, by time step, then by first channel and row."""

    step_N: NDArray[np.int64]
    """Time step of each chunk, ascending; fewer chunks than expected if some were never written."""
    offset_N: NDArray[np.int64]
    """First byte in the file."""
    size_N: NDArray[np.int64]
    """Size in bytes, after compression."""
    mask_N: NDArray[np.int64]
    """HDF5 filter mask: bit i is set where filter i was skipped."""


def chunk_table(fields: h5py.Dataset) -> ChunkTable:
    """Chunk table of a data set whose chunks hold one time step or a part of one."""
    rows: list[tuple[int, ...]] = []

    def keep(chunk: Any) -> None:
        rows.append((*chunk.chunk_offset[:3], chunk.byte_offset, chunk.size, chunk.filter_mask))

    fields.id.chunk_iter(keep)  # one pass; get_chunk_info(i) walks the index from its start each time
    table_N6 = np.array(sorted(rows), np.int64).reshape(-1, 6)
    return ChunkTable(*(np.ascontiguousarray(column) for column in table_N6[:, [0, 3, 4, 5]].T))


def header_checksum(path: Path) -> str:
    """`xxh3-64@start-end,start-end,…`: checksum of a file's length and of its bytes outside the chunks, with offsets.

    The offsets let a reader check the header before HDF5 opens the file: HDF5 may never return from a damaged one
    (measured with a flipped bit in its heap of strings).

    Raises:
        UserError: not a shard.
    """
    with open_shard(path, str(path)) as file:
        table = chunk_table(file["fields"]) if "fields" in file else None
    starts, ends = [0], [path.stat().st_size]
    if table is not None:
        order_N = np.argsort(table.offset_N)
        starts += (table.offset_N + table.size_N)[order_N].tolist()
        ends = [*table.offset_N[order_N].tolist(), *ends]
    spans = [(start, end) for start, end in zip(starts, ends, strict=True) if end > start]
    return f"{_digest(path, spans)}@{','.join(f'{start}-{end}' for start, end in spans)}"


def header_is_sound(path: Path, checksum: str) -> bool:
    """True where length and bytes outside the chunks match a `header_checksum`; does not use HDF5.

    Raises:
        OSError: the file cannot be read.
    """
    return _digest(path, header_spans(checksum)) == checksum.partition("@")[0]


def header_spans(checksum: str) -> list[tuple[int, int]]:
    """First byte of each part of a file outside its chunks, and that after the last one, from a `header_checksum`."""
    places = checksum.partition("@")[2].split(",")
    return [(int(start), int(end)) for start, _, end in (span.partition("-") for span in places)]


def _digest(path: Path, spans: Sequence[tuple[int, int]]) -> str:
    digest = xxhash.xxh3_64(path.stat().st_size.to_bytes(8, "little"))
    with open_plain(path, buffering=0) as file:
        for start, end in spans:
            file.seek(start)
            left = end - start
            while left > 0 and (block := file.read(min(left, _BLOCK))):
                digest.update(block)
                left -= len(block)
    return digest.hexdigest()
