"""Copies the shards of a data set to a local disk of the node, once for all its ranks; each file verified or absent.

STAGE/<first 16 digits of the manifest's sha256>/<file in the manifest>; a restarted run finds them there. STAGE may be
open to all users of the node; the folder in it is private. Where the node's ranks read only some chunks of a time step,
only these are copied, to files with holes in place of the others, in a folder whose name ends in a hash of the chunks.
"""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from climax_hpc.data.dataset import DataSet
from climax_hpc.data.field_part import FieldPart
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.segments import Segment, overlap
from climax_hpc.data.staged_chunks import copy_chunks
from climax_hpc.errors import UserError
from climax_hpc.shards.manifest import ClimatologyEntry, FileEntry, ShardEntry, StaticEntry
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
    parts: Mapping[str, Sequence[FieldPart]] | None = None,
    shown: bool = True,
) -> DataSet:
    """The data set with its files on a local disk of the node.

    The first rank of the node that calls this copies the files that the period needs; the others wait. A file appears
    under its name when all its bytes are on the disk and have the sha256 of the manifest, or the checksums of their
    chunks. A file of the right length that exists already is not copied again, because every byte is checked when it is
    read.

    Args:
        dataset: the data set as packed.
        stage_to: folder on a local disk, the same for all ranks of the node.
        names: sources to copy, as for `DataSet.select`; None: all.
        period: first and last date that will be read, as for `PackedSource.within`; None: all.
        parts: source -> parts of a time step that the ranks of the node will read, the same on all of them; None: all.
        shown: show the progress of copying.

    Raises:
        UserError: the folder cannot be created or written, the disk is too small, a file is absent or differs from the
            manifest.
    """
    make_folder(stage_to, _KEY)
    sources = dataset.select(list(names) if names else None)
    some = {} if parts is None else {s.name: parts[s.name] for s in sources if s.share_of(parts[s.name]) < 1}
    folder = stage_to / (dataset.manifest_sha256[:16] + _suffix(some))
    private_folder(folder, _KEY)
    files = [file for source in sources for file in _needed(source, period, dataset.folder, some.get(source.name))]
    with folder_lock(folder, _KEY, wait=True):  # only one rank of the node copies
        for place in {(folder / file.entry.file).parent for file in files}:
            remove_temporaries(place)  # of a rank that was killed
        missing = [file for file in files if not file.is_in(folder)]
        _check_room(stage_to, missing)
        progress = Progress("stage", [file.copied / 1e6 for file in missing], "MB", shown)
        for i, file in enumerate(missing):
            _copy(dataset.folder, folder, file)
            progress(i, None)
    return dataset.in_folder(folder, sources)


class _File(NamedTuple):
    """A file that is copied."""

    entry: FileEntry
    length: int
    """Bytes in the file."""
    parts: Sequence[FieldPart] | None
    """Parts of its time steps that are copied; None: all."""
    copied: float
    """Bytes that are copied; about so many of a compressed file."""

    def is_in(self, folder: Path) -> bool:
        path = folder / self.entry.file
        return path.is_file() and path.stat().st_size == self.length


def _suffix(parts: Mapping[str, Sequence[FieldPart]]) -> str:
    """What the name of a folder with these parts ends in; nothing for whole files."""
    if not parts:
        return ""
    named = sorted((name, sorted({repr(part) for part in some})) for name, some in parts.items())
    return f"-{hashlib.sha256(repr(named).encode()).hexdigest()[:16]}"


def _needed(
    source: PackedSource, period: tuple[str, str] | None, packed: Path, parts: Sequence[FieldPart] | None
) -> list[_File]:
    """The files of a source that hold a time step of the period, its climatology and its static fields."""
    share = 1.0 if parts is None else source.share_of(parts)
    spans, start = source.within(period), 0
    needed = []
    for entry in source.files:
        steps = entry.steps if isinstance(entry, ShardEntry) else 0
        if not isinstance(entry, ShardEntry) or overlap(spans, [Segment(first=start, steps=steps)]):
            length = _length(packed, entry)
            if isinstance(entry, StaticEntry):
                needed.append(_File(entry, length, None, length))
            else:
                needed.append(_File(entry, length, parts, share * length))
        start += steps
    return needed


def _length(packed: Path, entry: FileEntry) -> int:
    """Bytes in a file of the data set."""
    if not isinstance(entry, ClimatologyEntry):
        return entry.bytes
    try:
        return (packed / entry.file).stat().st_size
    except OSError:
        raise UserError(f"{packed / entry.file}: does not exist; {RESTORE}") from None


def _check_room(stage_to: Path, missing: Sequence[_File]) -> None:
    needed = int(sum(file.copied for file in missing))
    free = shutil.disk_usage(stage_to).free
    if missing and needed + _SPARE_BYTES > free:
        raise _disk_full(stage_to, needed, free)


def _disk_full(stage_to: Path, needed: int, free: int) -> UserError:
    return UserError(
        f"{_KEY}: {readable_size(needed)} and a reserve of {readable_size(_SPARE_BYTES)} do not fit on {stage_to}, "
        f"which has {readable_size(free)} free: choose a larger disk or fewer data.sources, or set it to null to read "
        "the data set in place"
    )


def _copy(folder: Path, stage: Path, file: _File) -> None:
    """Copy a file, or its chunks, and check their bytes."""
    packed, target, parts = folder / file.entry.file, stage / file.entry.file, file.parts
    target.parent.mkdir(parents=True, exist_ok=True)

    def write(temporary: Path) -> None:
        if parts is None or isinstance(file.entry, StaticEntry):
            _copy_whole(packed, temporary, file.entry.sha256)
        else:
            copy_chunks(folder, file.entry, parts, temporary)

    try:
        write_atomically(target, write)
    except FileNotFoundError:
        raise UserError(f"{packed}: does not exist; {RESTORE}") from None
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise _disk_full(target.parent, int(file.copied), shutil.disk_usage(target.parent).free) from None


def _copy_whole(packed: Path, temporary: Path, sha256: str) -> None:
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
