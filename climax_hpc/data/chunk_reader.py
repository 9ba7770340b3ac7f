"""Reads chunks of `/fields` of a shard: HDF5 gives their offsets once, then positional reads, each verified.

`os.preadv` and zlib release the GIL; HDF5's global lock is taken only to open a file.
Dimensions: C channels · H, W grid.
"""

import os
import zlib
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from climax_hpc.errors import UserError
from climax_hpc.shards.chunk_table import chunk_table
from climax_hpc.shards.manifest import ClimatologyEntry, ShardEntry
from climax_hpc.shards.open_listed import open_listed

_MOST_BYTES = 4 << 20  # of one positional read; adjacent chunks are read together up to this size
_SHUFFLE, _DEFLATE = 2, 1  # ids of HDF5 filters


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


class ChunkFile:
    """Reads chunks of one shard or climatology.

    Args:
        folder: where the files of the manifest lie.
        entry: its entry in the manifest.
        shape: shape (C, H, W) of its chunks in the manifest.
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
            if fields.shape != (steps, *shape) or fields.chunks != (1, *shape):
                raise UserError(
                    f"{path}: /fields has shape {fields.shape} in chunks of {fields.chunks}, the manifest says "
                    f"{(steps, *shape)} and one chunk per time step; {fix}"
                )
            table = chunk_table(fields)
            if table.step_N.tolist() != list(range(steps)):
                raise UserError(f"{path}: only {len(table.step_N)} of {steps} time steps were written; {fix}")
            self.dtype: np.dtype[Any] = fields.dtype
            self._filters = _filters(fields, str(path))
            # Arrays of 8 bytes per step, because a rank may hold the tables of a million steps.
            self._offsets, self._sizes, self._masks = (
                array("q", column.tolist()) for column in (table.offset_N, table.size_N, table.mask_N)
            )
            self._checksums = array("Q", file["checksum"][:].tolist())
        self._shape = shape
        self.nbytes = int(np.prod(shape)) * self.dtype.itemsize

    def read(self, index: int) -> NDArray[Any]:
        """Fields (C, H, W) of one time step; see `read_into`."""
        chunk_CHW: NDArray[Any] = np.empty(self._shape, self.dtype)
        self.read_into(index, chunk_CHW.data.cast("B"))
        return chunk_CHW

    def read_into(self, first: int, out: memoryview) -> None:
        """Read time steps first, first + 1, … into `out`, a multiple of `nbytes`; adjacent chunks in one call.

        Raises:
            UserError: truncated, or the bytes of a step do not match their checksum.
        """
        n = self.nbytes
        file = self._handle_of(self._path)  # referred to while reading: another thread may drop it from the cache
        if len(out) == n and not self._filters:  # a single step, the most frequent case in training
            self._fill(file, first, self._offsets[first], out)
            self._check(first, out)
            return
        count, done = len(out) // n, 0
        while done < count:
            index = first + done
            if self._filters:
                self._inflate(file, index, out[done * n : (done + 1) * n])
                together = 1
            else:
                together = self._adjacent(index, count - done)
                self._fill(file, index, self._offsets[index], out[done * n : (done + together) * n])
            for i in range(done, done + together):
                self._check(first + i, out[i * n : (i + 1) * n])
            done += together

    def _check(self, index: int, chunk: memoryview) -> None:
        if xxh3_64_intdigest(chunk) != self._checksums[index]:
            raise self._damaged(index, "does not match its checksum")

    def _adjacent(self, index: int, most: int) -> int:
        """How many of the next chunks are adjacent in the file and are read in one call."""
        most = min(most, max(1, _MOST_BYTES // self.nbytes))
        together = 1
        while together < most and self._offsets[index + together] == self._offsets[index] + together * self.nbytes:
            together += 1
        return together

    def _fill(self, file: FileHandle, index: int, offset: int, out: memoryview) -> None:
        got = os.preadv(file.descriptor, (out,), offset)
        while got < len(out):  # network file systems may return fewer bytes than requested
            more = os.preadv(file.descriptor, [out[got:]], offset + got)
            if more == 0:
                raise self._damaged(index + got // self.nbytes, "lies beyond the end of the file")
            got += more

    def _inflate(self, file: FileHandle, index: int, out: memoryview) -> None:
        raw = memoryview(bytearray(self._sizes[index]))
        self._fill(file, index, self._offsets[index], raw)
        content: Any = raw
        for place in reversed(range(len(self._filters))):
            if self._masks[index] >> place & 1:
                continue
            if self._filters[place] == _DEFLATE:
                try:
                    content = zlib.decompress(content)
                except zlib.error:
                    raise self._damaged(index, "cannot be decompressed") from None
            else:
                content = np.frombuffer(content, np.uint8).reshape(self.dtype.itemsize, -1).T.tobytes()
        if len(content) != len(out):
            raise self._damaged(index, f"has {len(content)} bytes instead of {len(out)}")
        out[:] = content

    def _damaged(self, index: int, how: str) -> UserError:
        return UserError(
            f"{self._path}: time step {index} {how}, so the file was changed or damaged after packing: {self._fix}"
        )


def _filters(fields: h5py.Dataset, path: str) -> Sequence[int]:
    """Ids of the HDF5 filters of the data set, in the order in which they were applied."""
    plist = fields.id.get_create_plist()
    found = [plist.get_filter(i) for i in range(plist.get_nfilters())]
    for number, _, _, name in found:
        if number not in (_SHUFFLE, _DEFLATE):
            raise UserError(
                f"{path}: is compressed with HDF5 filter {number} ({name.decode(errors='replace')}), which is not "
                "supported: pack it again, without compression or with gzip"
            )
    return [number for number, *_ in found]
