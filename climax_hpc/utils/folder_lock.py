"""One process per output: a lock that the kernel holds, so that it ends with its process, on this host or another.

A POSIX record lock on `.climax_hpc.lock` reaches across the nodes of NFS, GPFS, and Lustre mounted with `-o flock`.
The content of the file is information only, for the process that comes second. The file is removed when the lock is
released; who deletes it by hand gives the lock up.
"""

import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from climax_hpc.errors import UserError
from climax_hpc.utils.atomic import is_temporary
from climax_hpc.utils.files import made_folder

LOCK = ".climax_hpc.lock"
"""Name of the lock file in an output folder."""
_SECONDS_FOR_OWN_JOB = 300.0
"""Servers of network files keep the locks of a node that died for some minutes."""
_SECONDS_TO_SIGN = 2.0
_SECONDS_BETWEEN_TRIES = 0.2
_held: set[Path] = set()
"""Lock files of this process: record locks do not exclude the process that holds them."""


@contextmanager
def folder_lock(folder: Path, key: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of an existing output folder; `key` is the setting that names it.

    Raises:
        UserError: another process holds it; names its host and number. Not with `wait`.
    """
    lock = FolderLock(folder / LOCK, folder, key, wait=wait)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def locked_folder(folder: Path, key: str) -> Iterator[None]:
    """Make an output folder and hold its lock; afterwards a folder made for nothing is removed.

    Raises:
        UserError: another process holds the lock, or the folder cannot be made.
    """
    with made_folder(folder, key), folder_lock(folder, key):
        yield


def is_empty(folder: Path, *, but: Collection[str] = ()) -> bool:
    """True if a folder holds nothing but a lock, what killed processes left, and files of the names `but`."""
    return all(path.name == LOCK or path.name in but or is_temporary(path) for path in folder.iterdir())


class FolderLock:
    """A lock until `release`, or the end of the process."""

    def __init__(self, file: Path, output: Path, key: str, *, wait: bool = False) -> None:
        """Take the lock of `output`, the value of the setting `key`, by the lock file `file`.

        Raises:
            UserError: another process holds it. Not with `wait`.
        """
        self._file, self._output, self._key = file.parent.resolve() / file.name, output, key
        self._descriptor, start, told = -1, time.monotonic(), wait
        while not self._take():
            holder, waited = _read(self._file), time.monotonic() - start
            own = _is_earlier_attempt(holder)
            if not wait and waited > (_SECONDS_FOR_OWN_JOB if own else 0 if holder else _SECONDS_TO_SIGN):
                raise UserError(self._refusal(holder))
            if own and not told:
                told = True
                print(f"climax-hpc: {output}: waiting for the lock of this job's last attempt to end", flush=True)
            time.sleep(_SECONDS_BETWEEN_TRIES)
        _held.add(self._file)

    def release(self) -> None:
        """Remove the file, then give up the lock; nothing happens the second time."""
        if self._descriptor < 0:
            return
        if self._is_in_place(self._descriptor):
            self._file.unlink(missing_ok=True)
        _held.discard(self._file)
        os.close(self._descriptor)
        self._descriptor = -1

    def _take(self) -> bool:
        while self._file not in _held:
            descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            locked = self._locked(descriptor)
            if locked and self._is_in_place(descriptor):
                self._sign(descriptor)
                self._descriptor = descriptor
                return True
            os.close(descriptor)
            if not locked:
                return False
            # Its former holder removed the file between our opening and locking it: again.
        return False

    def _locked(self, descriptor: int) -> bool:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, says POSIX
            return False
        except OSError as error:
            print(
                f"climax-hpc: warning: {self._output}: this file system has no locks ({error.strerror}), so that a "
                "second process with the same output is not noticed; Lustre has them with the mount option flock",
                file=sys.stderr,
                flush=True,
            )
        return True

    def _is_in_place(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.lstat(self._file))
        except FileNotFoundError:
            return False

    def _sign(self, descriptor: int) -> None:
        """Write who holds the lock."""
        before = _parse(os.pread(descriptor, 1 << 12, 0))
        if before and before["host"] != socket.gethostname():
            print(
                f"climax-hpc: note: {self._output}: taken over from {_described(before)}, which ended without saying "
                "so; if it is still running, locks do not reach across nodes here: stop one of the two",
                flush=True,
            )
        with suppress(OSError):  # on a full disk the lock holds all the same
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(_this_process()).encode(), 0)
            os.fsync(descriptor)

    def _refusal(self, holder: dict[str, Any] | None) -> str:
        return (
            f"{self._key}: {self._output} is in use by {_described(holder)}: wait until it ends, stop it, or choose "
            f"another {self._key}; if its node has failed, delete {self._file}"
        )


def _this_process() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(word.partition("=")[0] for word in sys.argv[1:3])[:80],  # values may be secret
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "attempt": os.environ.get("SLURM_RESTART_COUNT", "0"),
    }


def _read(file: Path) -> dict[str, Any] | None:
    """Who holds the lock; None where that cannot be read."""
    try:
        return _parse(file.read_bytes()) if file not in _held else _this_process()
    except OSError:
        return None


def _parse(content: bytes) -> dict[str, Any] | None:
    try:
        holder = json.loads(content)
    except ValueError:
        return None
    return holder if isinstance(holder, dict) and _this_process().keys() <= holder.keys() else None


def _described(holder: dict[str, Any] | None) -> str:
    if holder is None:
        return "another process"
    job = f" in Slurm job {holder['job']}" if holder["job"] else ""
    words = f"process {holder['pid']} on {holder['host']}{job} ({holder['command']}, since {holder['since']})"
    return "".join(c if c.isprintable() else "?" for c in words)


def _is_earlier_attempt(holder: dict[str, Any] | None) -> bool:
    """True for the same Slurm job before it was requeued: that process is dead, whatever a server still believes."""
    own = _this_process()
    return holder is not None and own["job"] == holder["job"] != "" and own["attempt"] != holder["attempt"]
