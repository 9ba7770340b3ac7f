"""The one writer of output files: whole or absent, with the usual permissions; errors say what the system said.

A file is written to a temporary one beside its place, flushed and renamed. The temporary name is short, so that a file
may have the longest name that the file system allows, and unlike any name of a user, so that only our own are removed.
"""

import errno
import os
import re
import resource
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from climax_hpc.errors import UserError
from climax_hpc.utils.system_errors import number_of

_TEMPORARY = ".climax_hpc-{}.tmp"
_TEMPORARY_NAME = re.compile(r"\.climax_hpc-[0-9a-f]+\.tmp|\.[\w.-]+\.(h5|json|raw)\.\d+\.tmp")
"""Names of temporary files and folders; the second form is that of versions before 2026-12."""
_PROBE = bytes(1 << 16)


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary file beside `path`, flush it to disk and rename it to `path`.

    Raises:
        OSError: what the system refused, with `path`; also where a library reports it in another form.
    """
    write_together({path: write})


def write_together(writes: Mapping[Path, Callable[[Path], None]]) -> None:
    """Write several files that belong together: none is renamed before all are on the disk.

    Raises:
        OSError: as `write_atomically`.
    """
    files: list[AtomicFile] = []
    try:
        for path, write in writes.items():
            files.append(AtomicFile(path))
            with files[-1].explained():
                write(files[-1].temporary)
                files[-1].flush()
        for file in files:
            file.commit()
    finally:
        for file in files:
            file.discard()


def write_folder_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """The same for a folder, such as a zarr store; `path` must not exist.

    Raises:
        OSError: as `write_atomically`.
    """
    temporary = temporary_beside(path)
    try:
        with explained(path, temporary):
            write(temporary)
            sync_folder(temporary)
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def explained(path: Path, temporary: Path) -> Iterator[None]:
    """While `temporary` is written, raise what the system refused as OSError with `path`; other errors pass.

    Raises:
        OSError: with error number and path.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and not _is_about(error, path, temporary):
            raise
        number = _refused(temporary) or number_of(error)  # netCDF calls a full disk "permission denied"
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _is_about(error: OSError, path: Path, temporary: Path) -> bool:
    named = error.filename
    return named is None or str(named) == str(path) or Path(str(named)).is_relative_to(temporary)


class AtomicFile:
    """A file that is written under a temporary name, which `commit` renames and `discard` removes."""

    def __init__(self, path: Path) -> None:
        """Create the temporary file: what the system refuses is known before a library says it in its own words.

        Raises:
            UserError: `path` is a device, pipe or socket.
            OSError: the file cannot be created; `path` is a folder, or its name is too long.
        """
        self.path, self.temporary = path, temporary_beside(path)
        with self.explained():
            _check_place(path)
            with self.temporary.open("xb") as file:
                self._mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)  # as the umask says

    def explained(self) -> AbstractContextManager[None]:
        """See `explained`."""
        return explained(self.path, self.temporary)

    def flush(self) -> None:
        """Flush the temporary file to disk, with the permissions that the umask gives new files."""
        self.temporary.chmod(self._mode)  # safetensors makes private files
        sync(self.temporary)

    def commit(self) -> None:
        """Rename the flushed file to its place."""
        with self.explained():
            os.replace(self.temporary, self.path)
            sync(self.path.parent)

    def discard(self) -> None:
        """Remove the temporary file, if it is there; what hinders that has hindered the writing before."""
        with suppress(OSError):
            self.temporary.unlink()


def temporary_beside(path: Path) -> Path:
    """A new name in the same folder; see `is_temporary`."""
    return path.with_name(_TEMPORARY.format(secrets.token_hex(8)))


def is_temporary(path: Path) -> bool:
    """True for the name of what a killed process left."""
    return _TEMPORARY_NAME.fullmatch(path.name) is not None


def remove_temporaries(folder: Path) -> None:
    """Remove what killed processes left in a folder; only while no other process can be writing there."""
    for path in (path for path in folder.glob(".*.tmp") if is_temporary(path)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _check_place(path: Path) -> None:
    """Refuse what a rename cannot replace, or must not."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: is a device, pipe or socket; give the path of a file")


def _refused(temporary: Path) -> int | None:
    """The error number of a write beside a file whose writer failed without one; None if the system writes there."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    probe = temporary_beside(temporary)
    try:
        if limit != resource.RLIM_INFINITY and _size(temporary) + len(_PROBE) > limit:
            return errno.EFBIG
        with probe.open("xb") as file:
            file.write(_PROBE)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno
    finally:
        with suppress(OSError):
            probe.unlink()
    return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def sync_folder(path: Path) -> None:
    """fsync every file below a folder."""
    for file in path.rglob("*"):
        if file.is_file():
            sync(file)


def sync(path: Path) -> None:
    """fsync a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
