"""Checks of storage: locks, speed, free space and inodes of a folder; open files; checksums of a packed data set."""

import fcntl
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py

from climax_hpc.data_prep.verify import verify
from climax_hpc.errors import UserError
from climax_hpc.tools.doctor.check_result import CheckResult, fail, ok, warn

_BLOCK, _BLOCKS = 1 << 22, 32
_SLOW_BYTES_PER_SECOND, _SLOW_SYNC, _LITTLE_SPACE = 5e7, 1.0, 10e9
_FEW_INODES = 100_000
_FEW_OPEN_FILES = 4096
"""A rank has the shards of its data set, libraries and sockets to all other ranks open."""
# Ends with 0 if the file can be locked, 1 if another process has it, 3 if the file system has no such locks.
_LOCK = """
import fcntl, sys
try:
    fcntl.lockf(open(sys.argv[1], "r+b"), fcntl.LOCK_EX | fcntl.LOCK_NB)
except (BlockingIOError, PermissionError):
    sys.exit(1)
except OSError:
    sys.exit(3)
"""


def file_system(folder: Path) -> CheckResult:
    """Write 128 MiB with fsync, read it back from disk, rename a file; speeds and free space."""
    try:
        with tempfile.TemporaryDirectory(prefix=".climax-hpc-doctor-", dir=folder) as inside:
            write, read, latency = _speeds(Path(inside))
    except OSError as error:
        return fail(f"{folder}: {error.strerror}", "choose a writable folder on a file system with free space")
    state = os.statvfs(folder)
    free, inodes = state.f_frsize * state.f_bavail, state.f_favail
    counted = state.f_files > 0  # some file systems make inodes as they are needed
    found = (
        f"{folder.resolve()}: write {write / 1e6:.0f} MB/s, read {read / 1e6:.0f} MB/s, small file "
        f"{latency * 1e3:.0f} ms, {free / 1e9:.0f} GB{f' and {inodes:.1g} files' if counted else ''} free"
    )
    if min(write, read) < _SLOW_BYTES_PER_SECOND or latency > _SLOW_SYNC:
        return warn(found, "slow: keep data sets and run folders on the parallel file system or a local disk")
    if free < _LITTLE_SPACE:
        return warn(
            found,
            "little free space: a checkpoint of the 108 M model takes 1.7 GB; free some, or use another file system",
        )
    if counted and inodes < _FEW_INODES:
        return warn(found, "few files may be made here: delete some, ask for a larger quota, or use another folder")
    return ok(found)


def open_files() -> CheckResult:
    """How many files a process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"ulimit -n is {soft}, at most {'unlimited' if hard == resource.RLIM_INFINITY else hard}"
    if soft >= _FEW_OPEN_FILES or soft == resource.RLIM_INFINITY:
        return ok(found)
    if hard >= _FEW_OPEN_FILES or hard == resource.RLIM_INFINITY:
        return warn(found, f"few for large data sets and many ranks: put `ulimit -n {_FEW_OPEN_FILES}` into the job")
    return warn(found, f"few for large data sets and many ranks: ask the site for a limit of {_FEW_OPEN_FILES}")


def file_locks(folder: Path) -> CheckResult:
    """Lock a file as HDF5 does, and one as our commands lock their output folders; both must be noticed."""
    try:
        with tempfile.TemporaryDirectory(prefix=".climax-hpc-doctor-", dir=folder) as inside:
            hdf5, own = _hdf5_lock(Path(inside)), _own_lock(Path(inside))
    except OSError as error:
        return fail(f"{folder}: {error.strerror or error}", "choose a writable folder")
    off = os.environ.get("HDF5_USE_FILE_LOCKING", "").upper() in ("FALSE", "0")
    found = f"{folder.resolve()}: HDF5 {'is told not to lock' if off else hdf5}; our lock {own}"
    if hdf5.startswith("fails") and not off:
        return fail(found, "export HDF5_USE_FILE_LOCKING=FALSE, in the site file too, or use another file system")
    if own != "works":
        return warn(
            found,
            "two commands with one output are not noticed: start one at a time; Lustre has locks with the mount "
            "option flock",
        )
    return ok(found)


def _hdf5_lock(folder: Path) -> str:
    """What becomes of a lock by the HDF5 library."""
    path = folder / "locked.h5"
    try:
        with h5py.File(path, "w"), path.open("rb") as other:
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "locks files"
    except OSError as error:  # HDF5's text ends with what the system said
        return f"fails ({' '.join(str(error).split())[:120]})"
    return "takes no locks here"


def _own_lock(folder: Path) -> str:
    """Whether a second process notices a record lock of this one."""
    path = folder / "lock"
    path.touch()
    with path.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return f"fails ({error.strerror})"
        status = subprocess.run([sys.executable, "-c", _LOCK, str(path)], capture_output=True).returncode
    return "works" if status == 1 else "is not noticed by another process"


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
