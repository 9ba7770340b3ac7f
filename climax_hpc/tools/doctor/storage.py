"""Checks of storage: writable, speed and free space of a folder; checksums of a packed data set."""

import os
import shutil
import tempfile
import time
from pathlib import Path

from climax_hpc.data_prep.verify import verify
from climax_hpc.errors import UserError
from climax_hpc.tools.doctor.check_result import CheckResult, fail, ok, warn

_BLOCK, _BLOCKS = 1 << 22, 32
_SLOW_BYTES_PER_SECOND, _SLOW_SYNC, _LITTLE_SPACE = 5e7, 1.0, 10e9


def file_system(folder: Path) -> CheckResult:
    """Write 128 MiB with fsync, read it back from disk, rename a file; speeds and free space."""
    try:
        with tempfile.TemporaryDirectory(prefix=".climax-hpc-doctor-", dir=folder) as inside:
            write, read, latency = _speeds(Path(inside))
    except OSError as error:
        return fail(f"{folder}: {error.strerror}", "choose a writable folder on a file system with free space")
    free = shutil.disk_usage(folder).free
    found = (
        f"{folder.resolve()}: write {write / 1e6:.0f} MB/s, read {read / 1e6:.0f} MB/s, small file to disk "
        f"{latency * 1e3:.0f} ms, {free / 1e9:.0f} GB free"
    )
    if min(write, read) < _SLOW_BYTES_PER_SECOND or latency > _SLOW_SYNC:
        return warn(found, "slow: keep data sets and run folders on the parallel file system or a local disk")
    if free < _LITTLE_SPACE:
        return warn(
            found,
            "little free space: a checkpoint of the 108 M model takes 1.7 GB; free some, or use another file system",
        )
    return ok(found)


def _speeds(folder: Path) -> tuple[float, float, float]:
    """Bytes/s written and read, and the time to write, sync and rename a small file [s]."""
    path, block = folder / "block", os.urandom(_BLOCK)
    start = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(_BLOCKS):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    write = _BLOCK * _BLOCKS / (time.perf_counter() - start)
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        while part := file.read(_BLOCK):
            if part != block:
                raise OSError(5, "the data read back differ from the data written")
        read = _BLOCK * _BLOCKS / (time.perf_counter() - start)
    start = time.perf_counter()
    with (folder / "small").open("wb") as file:
        file.write(b"1")
        file.flush()
        os.fsync(file.fileno())
    os.replace(folder / "small", folder / "named")
    return write, read, time.perf_counter() - start


def dataset(folder: Path) -> CheckResult:
    """Every checksum of a packed data set, as in `climax-hpc verify`."""
    try:
        manifest = verify(folder, shown=False)
    except UserError as error:
        return fail(str(error), "fix the error above, or pack the data set again")
    shards = [shard for source in manifest.sources.values() for shard in source.shards]
    return ok(
        f"{folder}: {len(manifest.sources)} sources, {len(shards)} shards, "
        f"{sum(s.bytes for s in shards) / 1e6:.0f} MB, all checksums correct"
    )
