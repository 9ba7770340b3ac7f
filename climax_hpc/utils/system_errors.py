"""What the operating system refused, as one line with advice that follows its error number."""

import errno
import fcntl
import os
import re
import resource
from pathlib import Path

from climax_hpc.errors import UserError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Error numbers that mean no room: disk full, quota exceeded, file size limit exceeded."""
_LONGEST_PATH = 300  # characters of a path in a message
_FEWEST_FILES = 32
"""Files and sockets that a command must be able to open."""
_NUMBER = re.compile(r"(?:errno = |os error |\[Errno |mode: [\w ]+\()(\d+)")  # HDF5, Rust, Python, torch
_PERMISSIONS = "check who owns it and its permissions, or give another path"
_ADVICE = {
    errno.ENOSPC: "free some space, or give a path on another disk, and run the same command again",
    errno.EDQUOT: "delete something, or ask for a larger quota, and run the same command again",
    errno.EFBIG: "raise the limit (`ulimit -f`), and run the same command again",
    errno.EACCES: _PERMISSIONS,
    errno.EPERM: _PERMISSIONS,
    errno.EROFS: "give a path on another file system",
    errno.ENOENT: "check the path",
    errno.EISDIR: "it is a folder: give the path of a file",
    errno.ENOTDIR: "a part of the path is a file: give another path",
    errno.EEXIST: "remove it, or give another path",
    errno.ENOTEMPTY: "it holds other files: give another path",
    errno.ENAMETOOLONG: "file systems allow 255 bytes in a name and 4095 in a path: give a shorter one",
    errno.ELOOP: "its symbolic links form a loop: remove them",
    errno.EMFILE: "raise the limit (`ulimit -n`, now {open_files}), and run the same command again",
    errno.ENFILE: "the whole machine has too many files open: close other programs, and run the same command again",
    errno.ENOMEM: "ask for more memory, or use smaller batches",
    errno.EIO: "the disk or the network failed: see the system's log, and run the same command again",
    errno.ESTALE: "the server of the file was restarted, or the file replaced: run the same command again",
    errno.ENOLCK: "the file system has no locks: export HDF5_USE_FILE_LOCKING=FALSE, or give a path on another one",
}
_NO_INODES = "No inodes left on device: it has too many files"
_OF_THE_SYSTEM = {
    *NO_ROOM, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE,
    errno.ENOLCK, errno.EAGAIN, errno.ETIMEDOUT, errno.ENODEV, errno.ENXIO,
}  # fmt: skip
"""Error numbers that say nothing about the content of a file."""
_LOCKED = "; another program is writing it: wait until it ends, or export HDF5_USE_FILE_LOCKING=FALSE if none is"
_HDF5 = b"\x89HDF\r\n\x1a\n"


def number_of(error: BaseException) -> int | None:
    """The error number of an exception; libraries write it into their text only. None without one."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if str(error).startswith("Symlink loop"):  # pathlib's words before Python 3.13
        return errno.ELOOP
    found = _NUMBER.search(str(error))
    return int(found[1]) if found else None


def refuse_system_error(error: BaseException, path: str | Path) -> None:
    """For readers, before they call a file damaged: was it the system that refused to read it?

    Raises:
        UserError: permissions, limits, memory or the disk are the reason; says which, and what to do.
    """
    number = number_of(error)
    if number not in _OF_THE_SYSTEM:
        number = _refused_lock(Path(path))
    if number in _OF_THE_SYSTEM:
        line = explain(OSError(number, os.strerror(number), str(path)))
        raise UserError(line + _LOCKED * (number == errno.EAGAIN)) from error


def _refused_lock(path: Path) -> int | None:
    """Why HDF5 could not lock a file that it was to read: the NetCDF library does not pass it on. None if it could."""
    if not path.is_file() or os.environ.get("HDF5_USE_FILE_LOCKING", "").upper() in ("FALSE", "0"):
        return None
    try:
        with path.open("rb") as file:
            if file.read(len(_HDF5)) == _HDF5:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno
    return None


def check_open_files() -> None:
    """Refuse a limit of open files that no command can work with: Python and torch fail in many ways there, or abort.

    Raises:
        OSError: EMFILE.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and limit - len(os.listdir("/dev/fd")) < _FEWEST_FILES:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/dev/fd")


def explain(error: OSError, path: str | Path = "") -> str:
    """One line: path (that of the error, where none is given), reason, advice."""
    path, reason = str(path or _path_of(error)), reason_of(error)
    if len(path) > _LONGEST_PATH:
        path = f"{path[: _LONGEST_PATH // 2]}…{path[-_LONGEST_PATH // 2 :]}"
    advice = (
        "delete some, or give a path on another disk" if reason == _NO_INODES else _ADVICE.get(error.errno or 0, "")
    )
    advice = advice.format(open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return f"{path}{': ' if path else ''}{reason}{'; ' if advice else ''}{advice}"


def reason_of(error: OSError) -> str:
    """What the system says, such as `No space left on device`."""
    if error.errno == errno.ENOSPC and _no_inodes(Path(_path_of(error) or ".")):
        return _NO_INODES
    return os.strerror(error.errno) if error.errno else str(error)


def _path_of(error: OSError) -> str:
    named = (error.filename2, error.filename)
    return next((os.fsdecode(path) for path in named if isinstance(path, str | bytes | os.PathLike)), "")


def _no_inodes(path: Path) -> bool:
    """True if the file system of a path has blocks left but no inodes."""
    try:
        state = os.statvfs(next(p for p in (path, *path.absolute().parents) if os.path.isdir(p)))
    except OSError:
        return False
    return state.f_files > 0 and state.f_favail == 0 and state.f_bavail > 0
