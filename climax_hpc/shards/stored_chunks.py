"""Chunks of an open shard, each compared with its checksum: for `verify`, `repack` and the view in xarray.

Training reads by offset instead (`climax_hpc.data.chunk_reader`), without HDF5's global lock.
Shapes: C channels, H rows, W columns; N chunks of a time step; a chunk holds c channels and r rows.
"""

from typing import Any

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from climax_hpc.shards.chunk_filters import filters_of, inflated
from climax_hpc.shards.chunk_layout import ChunkLayout
from climax_hpc.utils.system_errors import refuse_system_error


def layout_of(fields: h5py.Dataset) -> ChunkLayout:
    """The chunk layout of `/fields`.

    Raises:
        ValueError: its chunks are not those of one time step and of whole rows.
    """
    shape, chunks = fields.shape, fields.chunks
    if len(shape) != 4 or chunks is None or chunks[0] != 1 or chunks[3] != shape[3]:
        raise ValueError(f"has shape {shape} in chunks of {chunks}")
    return ChunkLayout(shape=shape[1:], channels=chunks[1], rows=chunks[2])


def checksums_of(file: h5py.File, layout: ChunkLayout) -> NDArray[np.uint64]:
    """Checksums (T, N) of a shard; version 1 has one per time step.

    Raises:
        ValueError: they are not one per chunk.
    """
    checksums: NDArray[np.uint64] = file["checksum"][:]
    found, steps = checksums.shape, len(file["fields"])
    if found != ((steps,) if layout.is_whole else (steps, layout.per_step)):
        raise ValueError(f"/checksum has shape {found} for {steps} time steps of {layout.per_step} chunks")
    return checksums.reshape(steps, layout.per_step)


class StoredChunks:
    """The chunks of an open shard or climatology.

    Raises:
        UserError: compressed by an HDF5 filter other than gzip and shuffle.
        ValueError: shape, chunks and checksums do not match.
    """

    def __init__(self, file: h5py.File) -> None:
        self._fields, self._name = file["fields"], file.filename
        self._filters = filters_of(self._fields, self._name)
        self.layout = layout_of(self._fields)
        self._checksums_TN = checksums_of(file, self.layout)

    def __len__(self) -> int:
        """Number of time steps."""
        return len(self._checksums_TN)

    def read(self, step: int, number: int) -> NDArray[Any] | None:
        """Chunk `number` (c, r, W) of a time step, as stored; None where its bytes do not match the checksum."""
        channels, rows = self.layout.cells_of(number)
        try:
            mask, stored = self._fields.id.read_direct_chunk((step, channels.start, rows.start, 0))
            raw = inflated(stored, self._filters, mask, self._fields.dtype.itemsize)
        except (OSError, ValueError) as error:
            refuse_system_error(error, self._name)
            return None
        if xxhash.xxh3_64_intdigest(raw) != int(self._checksums_TN[step, number]):
            return None
        chunk: NDArray[Any] = np.frombuffer(raw, self._fields.dtype).reshape(self.layout.chunk_shape)
        return chunk

    def read_step(self, step: int) -> NDArray[Any] | None:
        """Fields (C, H, W) of a time step; None where a chunk does not match its checksum."""
        fields_CHW: NDArray[Any] = np.empty(self.layout.shape, self._fields.dtype)
        for number in range(self.layout.per_step):
            chunk = self.read(step, number)
            if chunk is None:
                return None
            cells_crW = fields_CHW[self.layout.cells_of(number)]
            cells_crW[...] = chunk[: cells_crW.shape[0], : cells_crW.shape[1]]
        return fields_CHW


def first_bad_step(file: h5py.File) -> int | None:
    """First time step (or entry of a climatology) with a chunk that does not match its checksum; None where all match.

    Raises:
        UserError, ValueError: see `StoredChunks`.
    """
    chunks = StoredChunks(file)
    for step in range(len(chunks)):
        if any(chunks.read(step, number) is None for number in range(chunks.layout.per_step)):
            return step
    return None
