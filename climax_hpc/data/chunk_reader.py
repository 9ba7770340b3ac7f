"""Reads chunks of `/fields` of a shard: HDF5 gives their offsets once, then positional reads, each verified.

Only the chunks that hold a part of what is asked for are read, and a read scatters their bytes to their places.
`os.preadv` and zlib release the GIL; HDF5's global lock is taken only to open a file.
Dimensions: C channels · H, W grid · c, h channels and rows of a part.
"""

import os
import resource
import threading
from array import array
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64, xxh3_64_intdigest

from climax_hpc.data.field_part import ALL, UNUSED, ChunkPieces, FieldPart, pieces_of
from climax_hpc.errors import UserError
from climax_hpc.shards.chunk_filters import filters_of, inflated
from climax_hpc.shards.chunk_table import chunk_table
from climax_hpc.shards.manifest import ClimatologyEntry, ShardEntry
from climax_hpc.shards.open_listed import open_listed
from climax_hpc.shards.stored_chunks import checksums_of, layout_of

_MOST_BYTES = 4 << 20  # of one positional read; adjacent chunks are read together up to this size
_SPARE = threading.local()
"""Memory of each thread for bytes that are read for the checksum only."""
_MOST_OPEN_FILES = 1 << 15  # where `ulimit -n` allows more than four times as many
_MOST_PIECES = 1024  # of one positional read: IOV_MAX of Linux


class FileHandle:
    """An open file; closed when nothing refers to it any more."""

    def __init__(self, path: str) -> None:
        """Open for reading.

        Raises:
            OSError: see `os.open`.
        """
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def open_files() -> Callable[[str], FileHandle]:
    """A cache of open files, path -> file, that closes those which were not used for longest.

    It holds a quarter of the files that `ulimit -n` still allows the process: with random sample order nearly every
    file of a data set is used again soon, and every closed one costs the file system another open. A process may have
    several data sets open, as those of the two grids of downscaling.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return lru_cache(maxsize=_MOST_OPEN_FILES)(FileHandle)
    free = limit - len(os.listdir("/dev/fd"))
    return lru_cache(maxsize=max(1, min(free // 4, _MOST_OPEN_FILES)))(FileHandle)


class ChunkFile:
    """Reads chunks of one shard or climatology.

    Args:
        folder: where the files of the manifest lie.
        entry: its entry in the manifest.
        shape: shape (C, H, W) of its time steps in the manifest.
        handle_of: path -> open file; it may close files that were not used for longest.
        fix: what to do about a damaged file, for messages.

    Raises:
        UserError: absent, truncated, damaged outside its chunks, different from the manifest, or compressed by an HDF5
            filter other than gzip and shuffle.
    """

    def __init__(
        self,
        folder: Path,
        entry: ShardEntry | ClimatologyEntry,
        *,
        shape: tuple[int, int, int],
        handle_of: Callable[[str], FileHandle],
        fix: str,
    ) -> None:
        path, steps = folder / entry.file, entry.length
        self._path, self._handle_of, self._fix = str(path), handle_of, fix
        with open_listed(folder, entry, fix) as file:
            fields = file["fields"]
            if fields.shape != (steps, *shape):
                raise UserError(f"{path}: /fields has shape {fields.shape}, the manifest says {(steps, *shape)}; {fix}")
            self.layout = layout_of(fields)
            table, chunks = chunk_table(fields), steps * self.layout.per_step
            if len(table.step_N) != chunks:
                raise UserError(f"{path}: only {len(table.step_N)} of {chunks} chunks were written; {fix}")
            self.dtype: np.dtype[Any] = fields.dtype
            self._filters = filters_of(fields, str(path))
            # Arrays of 8 bytes per chunk, because a rank may hold the tables of a million chunks.
            self._offsets = array("q", table.offset_N.tolist())
            self._sizes, self._masks = (
                array("q", column.tolist() if self._filters else ()) for column in (table.size_N, table.mask_N)
            )
            self._checksums = array("Q", checksums_of(file, self.layout).ravel().tolist())
        self._shape = shape
        self._chunk_bytes = self.layout.chunk_cells * self.dtype.itemsize
        self.nbytes = int(np.prod(shape)) * self.dtype.itemsize

    def read(self, index: int, part: FieldPart = ALL) -> NDArray[Any]:
        """Fields (c, h, W) of one time step; see `read_into`."""
        fields_chW: NDArray[Any] = np.empty(part.shape_in(self._shape), self.dtype)
        self.read_into(index, fields_chW.data.cast("B"), part)
        return fields_chW

    def read_into(self, first: int, out: memoryview, part: FieldPart = ALL) -> None:
        """Read time steps first, first + 1, … into `out`, a multiple of a part's size; adjacent chunks in one call.

        Raises:
            UserError: truncated, or the bytes of a step do not match their checksum.
        """
        file = self._handle_of(self._path)  # referred to while reading: another thread may drop it from the cache
        if self.layout.is_whole and (part is ALL or part.is_all(self._shape)):
            self._read_steps(file, first, out)
            return
        size = int(np.prod(part.shape_in(self._shape))) * self.dtype.itemsize
        pieces = pieces_of(self.layout, part, self.dtype.itemsize)
        for step in range(len(out) // size):
            self._read_part(file, first + step, out[step * size : (step + 1) * size], pieces)

    def _read_steps(self, file: FileHandle, first: int, out: memoryview) -> None:
        """Read whole time steps of one chunk each."""
        n = self.nbytes
        if len(out) == n and not self._filters:  # a single step, the most frequent case in training
            self._fill(file, first, self._offsets[first], out)
            self._check(first, out)
            return
        count, done = len(out) // n, 0
        while done < count:
            index = first + done
            if self._filters:
                out[done * n : (done + 1) * n] = self._inflate(file, index)
                together = 1
            else:
                together = self._together(range(index, first + count))
                self._fill(file, index, self._offsets[index], out[done * n : (done + together) * n])
            for i in range(done, done + together):
                self._check(first + i, out[i * n : (i + 1) * n])
            done += together

    def _read_part(self, file: FileHandle, step: int, out: memoryview, chunks: Sequence[ChunkPieces]) -> None:
        """Read these chunks of a time step; `out`: bytes of the part."""
        start, numbers = 0, [step * self.layout.per_step + chunk.number for chunk in chunks]
        while start < len(chunks):
            if self._filters:
                content = self._inflate(file, numbers[start])
                self._check(numbers[start], content)
                position = 0
                for target, length in chunks[start].pieces:
                    if target != UNUSED:
                        out[target : target + length] = content[position : position + length]
                    position += length
                start += 1
                continue
            at, stop = numbers[start], start + self._together(numbers[start:])
            views = self._places(out, chunks[start:stop])
            self._fill_all(file, at, self._offsets[at], [view for of_chunk in views for view in of_chunk])
            for number, of_chunk in zip(numbers[start:stop], views, strict=True):
                self._check(number, *of_chunk)
            start = stop

    def _places(self, out: memoryview, chunks: Sequence[ChunkPieces]) -> list[list[memoryview]]:
        """Where the bytes of chunks go: into the part, or into spare memory of this thread."""
        unused = sum(length for chunk in chunks for target, length in chunk.pieces if target == UNUSED)
        spare = getattr(_SPARE, "memory", None)
        if spare is None or len(spare) < unused:
            spare = _SPARE.memory = memoryview(bytearray(unused))
        used, views = 0, []
        for chunk in chunks:
            of_chunk = []
            for target, length in chunk.pieces:
                if target == UNUSED:
                    of_chunk.append(spare[used : used + length])
                    used += length
                else:
                    of_chunk.append(out[target : target + length])
            views.append(of_chunk)
        return views

    def _together(self, chunks: Sequence[int]) -> int:
        """How many of these chunks, from the first on, are adjacent in the file and are read in one call."""
        most = min(len(chunks), max(1, _MOST_BYTES // self._chunk_bytes))
        offset, count = self._offsets[chunks[0]], 1
        while count < most and self._offsets[chunks[count]] == offset + count * self._chunk_bytes:
            count += 1
        return count

    def _check(self, chunk: int, *parts: memoryview) -> None:
        """Compare the bytes of a chunk, one after another, with its checksum."""
        if len(parts) == 1:
            found = xxh3_64_intdigest(parts[0])
        else:
            hashed = xxh3_64()
            for part in parts:
                hashed.update(part)
            found = hashed.intdigest()
        if found != self._checksums[chunk]:
            raise self._damaged(chunk, "does not match its checksum")

    def _fill(self, file: FileHandle, index: int, offset: int, out: memoryview) -> None:
        """Read consecutive bytes of the file, from the chunk `index` on."""
        got = os.preadv(file.descriptor, (out,), offset)
        while got < len(out):  # network file systems may return fewer bytes than requested
            more = os.preadv(file.descriptor, [out[got:]], offset + got)
            if more == 0:
                raise self._damaged(index + got // self._chunk_bytes, "lies beyond the end of the file")
            got += more

    def _fill_all(self, file: FileHandle, chunk: int, offset: int, views: Sequence[memoryview]) -> None:
        """Read consecutive bytes of the file into several places."""
        for first in range(0, len(views), _MOST_PIECES):
            some = views[first : first + _MOST_PIECES]
            expected = sum(map(len, some))
            if os.preadv(file.descriptor, some, offset) != expected:
                for view in some:  # once more, piece by piece
                    self._fill(file, chunk, offset, view)
                    offset += len(view)
            else:
                offset += expected

    def _inflate(self, file: FileHandle, chunk: int) -> memoryview:
        """The bytes of a compressed chunk before compression."""
        raw = memoryview(bytearray(self._sizes[chunk]))
        self._fill(file, chunk, self._offsets[chunk], raw)
        try:
            content = memoryview(inflated(raw, self._filters, self._masks[chunk], self.dtype.itemsize))
        except ValueError as error:
            raise self._damaged(chunk, str(error)) from None
        if len(content) != self._chunk_bytes:
            raise self._damaged(chunk, f"has {len(content)} bytes instead of {self._chunk_bytes}")
        return content

    def _damaged(self, chunk: int, how: str) -> UserError:
        step, number = divmod(chunk, self.layout.per_step)
        if not self.layout.is_whole:
            channels, rows = self.layout.cells_of(number)
            how = f"(channels {channels.start} … {channels.stop - 1}, rows {rows.start} … {rows.stop - 1}) {how}"
        return UserError(
            f"{self._path}: time step {step} {how}, so the file was changed or damaged after packing: {self._fix}"
        )
