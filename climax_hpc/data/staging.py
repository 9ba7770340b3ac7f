"""Copies the shards of a data set to a node's own disk, once for all ranks of the node; whole and verified, or absent.

STAGE/<first 16 digits of the manifest's sha256>/<file of the manifest>; a restarted run finds them there.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from climax_hpc.data.dataset import DataSet
from climax_hpc.errors import UserError
from climax_hpc.shards.manifest import ClimatologyEntry, ShardEntry
from climax_hpc.shards.shard import RESTORE
from climax_hpc.utils.files import DISK_FULL, make_folder, write_atomically
from climax_hpc.utils.progress import Progress

_KEY = "data.stage_to"
_BLOCK = 8 << 20
_SPARE_BYTES = 64 << 20  # left free on the disk


def staged(dataset: DataSet, stage_to: Path, names: Sequence[str] | None, *, shown: bool = True) -> DataSet:
    """The data set with its files on the node's own disk.

    The first rank of the node to come copies the files of the chosen sources; the others wait for it. Each file appears
    under its name once all its bytes are on the disk and have the sha256 of the manifest. A file that is there already,
    of the right length, is not copied again: reading checks every byte of it anyway.

    Args:
        dataset: the data set as packed.
        stage_to: folder on the node's own disk, the same for all ranks of the node.
        names: sources to copy, as `DataSet.select`; all where None.
        shown: show the progress of copying.

    Raises:
        UserError: the folder cannot be made or written, the disk is too small, a file is absent or not as packed.
    """
    make_folder(stage_to, _KEY)
    folder = stage_to / dataset.manifest_sha256[:16]
    files = [entry for source in dataset.select(list(names) if names else None) for entry in source.files]
    with _only_one_rank(stage_to):
        missing = [entry for entry in files if not _is_there(dataset.folder, folder, entry)]
        _check_room(dataset.folder, stage_to, missing)
        progress = Progress("stage", [_length(dataset.folder, entry) / 1e6 for entry in missing], "MB", shown)
        for i, entry in enumerate(missing):
            _copy(dataset.folder / entry.file, folder / entry.file, entry.sha256)
            progress(i, None)
    return DataSet(dataset.folder, files=folder)


@contextmanager
def _only_one_rank(stage_to: Path) -> Iterator[None]:
    """Hold the lock of the folder; the kernel lets go of it when a process dies."""
    path = stage_to / ".lock"
    try:
        file = path.open("w")
    except OSError as error:
        raise UserError(f"{_KEY}: cannot write into {stage_to} ({error.strerror}); choose a writable one") from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for left_over in stage_to.glob("*/*/.*.tmp"):  # of a rank that was killed: no other is copying now
            left_over.unlink()
        yield


def _is_there(packed: Path, folder: Path, entry: ShardEntry | ClimatologyEntry) -> bool:
    path = folder / entry.file
    return path.is_file() and path.stat().st_size == _length(packed, entry)


def _length(packed: Path, entry: ShardEntry | ClimatologyEntry) -> int:
    """Bytes of a file of the data set."""
    if isinstance(entry, ShardEntry):
        return entry.bytes
    try:
        return (packed / entry.file).stat().st_size
    except OSError:
        raise UserError(f"{packed / entry.file}: is absent; {RESTORE}") from None


def _check_room(packed: Path, stage_to: Path, missing: Sequence[ShardEntry | ClimatologyEntry]) -> None:
    needed = sum(_length(packed, entry) for entry in missing)
    free = shutil.disk_usage(stage_to).free
    if missing and needed + _SPARE_BYTES > free:
        raise _disk_full(stage_to, needed, free)


def _disk_full(stage_to: Path, needed: int, free: int) -> UserError:
    return UserError(
        f"{_KEY}: {needed / 1e9:.2f} GB are to be copied to {stage_to}, which has {free / 1e9:.2f} GB free: choose "
        "a larger disk, fewer data.sources, or set it to null to read the data set where it lies"
    )


def _copy(packed: Path, target: Path, sha256: str) -> None:
    """Copy one file, hashing what is copied."""
    target.parent.mkdir(parents=True, exist_ok=True)

    def write(temporary: Path) -> None:
        digest = hashlib.sha256()
        with packed.open("rb", buffering=0) as source, temporary.open("wb", buffering=0) as copy:
            block = bytearray(_BLOCK)
            while count := source.readinto(block):
                piece = memoryview(block)[:count]
                digest.update(piece)
                while piece:
                    piece = piece[copy.write(piece) :]
        if digest.hexdigest() != sha256:
            raise UserError(
                f"{packed}: is not as packed (sha256 differs from the manifest), so it is not staged; {RESTORE}"
            )

    try:
        write_atomically(target, write)
    except FileNotFoundError:
        raise UserError(f"{packed}: is absent; {RESTORE}") from None
    except OSError as error:
        if error.errno in DISK_FULL:
            raise _disk_full(target.parent, packed.stat().st_size, shutil.disk_usage(target.parent).free) from None
        raise UserError(f"{_KEY}: cannot copy {packed} to {target} ({os.strerror(error.errno or 0)})") from None
