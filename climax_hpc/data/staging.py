"""Copies the shards of a data set to a local disk of the node, once for all its ranks; each file verified or absent.

STAGE/<first 16 digits of the manifest's sha256>/<file in the manifest>; a restarted run finds them there. STAGE may be
open to all users of the node; the folder in it is private.
"""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from climax_hpc.data.dataset import DataSet
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.segments import Segment, overlap
from climax_hpc.errors import UserError
from climax_hpc.shards.manifest import ClimatologyEntry, ShardEntry
from climax_hpc.shards.shard import RESTORE
from climax_hpc.utils.atomic import remove_temporaries, write_atomically
from climax_hpc.utils.files import make_folder, open_plain
from climax_hpc.utils.folder_lock import folder_lock
from climax_hpc.utils.formatting import readable_size
from climax_hpc.utils.private_folders import private_folder
from climax_hpc.utils.progress import Progress
from climax_hpc.utils.system_errors import NO_ROOM

_KEY = "data.stage_to"
_BLOCK = 8 << 20
_SPARE_BYTES = 64 << 20  # that stay free on the disk


def staged(
    dataset: DataSet,
    stage_to: Path,
    names: Sequence[str] | None,
    *,
    period: tuple[str, str] | None = None,
    shown: bool = True,
) -> DataSet:
    """The data set with its files on a local disk of the node.

    The first rank of the node that calls this copies the files that the period needs; the others wait. A file appears
    under its name when all its bytes are on the disk and have the sha256 of the manifest. A file of the right length
    that exists already is not copied again, because every byte is checked when it is read.

    Args:
        dataset: the data set as packed.
        stage_to: folder on a local disk, the same for all ranks of the node.
        names: sources to copy, as for `DataSet.select`; None: all.
        period: first and last date that will be read, as for `PackedSource.within`; None: all.
        shown: show the progress of copying.

    Raises:
        UserError: the folder cannot be created or written, the disk is too small, a file is absent or differs from the
            manifest.
    """
    make_folder(stage_to, _KEY)
    folder = stage_to / dataset.manifest_sha256[:16]
    private_folder(folder, _KEY)
    sources = dataset.select(list(names) if names else None)
    files = [entry for source in sources for entry in _needed(source, period)]
    with folder_lock(folder, _KEY, wait=True):  # only one rank of the node copies
        for place in {(folder / entry.file).parent for entry in files}:
            remove_temporaries(place)  # of a rank that was killed
        missing = [entry for entry in files if not _is_there(dataset.folder, folder, entry)]
        _check_room(dataset.folder, stage_to, missing)
        progress = Progress("stage", [_length(dataset.folder, entry) / 1e6 for entry in missing], "MB", shown)
        for i, entry in enumerate(missing):
            _copy(dataset.folder / entry.file, folder / entry.file, entry.sha256)
            progress(i, None)
    return dataset.in_folder(folder, sources)


def _needed(source: PackedSource, period: tuple[str, str] | None) -> list[ShardEntry | ClimatologyEntry]:
    """The files of a source that hold a time step of the period, and its climatology."""
    spans, start = source.within(period), 0
    needed: list[ShardEntry | ClimatologyEntry] = []
    for entry in source.files:
        steps = entry.steps if isinstance(entry, ShardEntry) else 0
        if isinstance(entry, ClimatologyEntry) or overlap(spans, [Segment(first=start, steps=steps)]):
            needed.append(entry)
        start += steps
    return needed


def _is_there(packed: Path, folder: Path, entry: ShardEntry | ClimatologyEntry) -> bool:
    path = folder / entry.file
    return path.is_file() and path.stat().st_size == _length(packed, entry)


def _length(packed: Path, entry: ShardEntry | ClimatologyEntry) -> int:
    """Bytes in a file of the data set."""
    if isinstance(entry, ShardEntry):
        return entry.bytes
    try:
        return (packed / entry.file).stat().st_size
    except OSError:
        raise UserError(f"{packed / entry.file}: does not exist; {RESTORE}") from None


def _check_room(packed: Path, stage_to: Path, missing: Sequence[ShardEntry | ClimatologyEntry]) -> None:
    needed = sum(_length(packed, entry) for entry in missing)
    free = shutil.disk_usage(stage_to).free
    if missing and needed + _SPARE_BYTES > free:
        raise _disk_full(stage_to, needed, free)


def _disk_full(stage_to: Path, needed: int, free: int) -> UserError:
    return UserError(
        f"{_KEY}: {readable_size(needed)} and a reserve of {readable_size(_SPARE_BYTES)} do not fit on {stage_to}, "
        f"which has {readable_size(free)} free: choose a larger disk or fewer data.sources, or set it to null to read "
        "the data set in place"
    )


def _copy(packed: Path, target: Path, sha256: str) -> None:
    """Copy a file and check the sha256 of its bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)

    def write(temporary: Path) -> None:
        digest = hashlib.sha256()
        with open_plain(packed, buffering=0) as source, temporary.open("wb", buffering=0) as copy:
            block = bytearray(_BLOCK)
            while count := source.readinto(block):
                piece = memoryview(block)[:count]
                digest.update(piece)
                while piece:
                    piece = piece[copy.write(piece) :]
        if digest.hexdigest() != sha256:
            raise UserError(f"{packed}: differs from the manifest (sha256), so it was changed after packing; {RESTORE}")

    try:
        write_atomically(target, write)
    except FileNotFoundError:
        raise UserError(f"{packed}: does not exist; {RESTORE}") from None
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise _disk_full(target.parent, packed.stat().st_size, shutil.disk_usage(target.parent).free) from None
