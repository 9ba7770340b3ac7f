"""Opens a file that a manifest lists, after its header matched the manifest: every reader's way in."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from climax_hpc.errors import UserError
from climax_hpc.shards.chunk_table import header_is_sound
from climax_hpc.shards.manifest import FILE_NAME, FileEntry, SourceEntry, read_manifest
from climax_hpc.shards.shard import RESTORE, open_shard
from climax_hpc.utils.system_errors import refuse_system_error

_DAMAGE = (
    OSError,
    KeyError,
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    AttributeError,
)  # raised by h5py on a damaged index


@contextmanager
def open_listed(folder: Path, entry: FileEntry, fix: str = RESTORE) -> Iterator[h5py.File]:
    """The open HDF5 file of an entry; `folder`: where the files of the manifest lie.

    Raises:
        UserError: absent, truncated or damaged outside its chunks; ends with `fix`.
    """
    path, contents = folder / entry.file, entry.contents
    try:
        # Checked first: HDF5 may hang on a damaged header.
        if path.exists() and not header_is_sound(path, entry.header_xxh3):
            raise ValueError("its length or header checksum differs")
        with open_shard(path, f"{path} ({contents})") as file:
            yield file
    except _DAMAGE as error:
        refuse_system_error(error, path)
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: the description of {contents} differs from the manifest ({reason}), so the file was changed or "
            f"damaged after packing: {fix}"
        ) from error


def find_entry(path: Path) -> tuple[Path, SourceEntry, FileEntry]:
    """The data set around a file of a source, and the entries of the source and of the file in its manifest.

    Raises:
        UserError: the file does not exist, or lies in no data set that lists it.
    """
    if not path.is_file():
        raise UserError(f"{path}: does not exist; give a shard of a packed data set")
    path = path.resolve()
    for folder in path.parents:
        if (folder / FILE_NAME).is_file():
            name = path.relative_to(folder).as_posix()
            for source in read_manifest(folder).sources.values():
                for entry in source.files:
                    if entry.file == name:
                        return folder, source, entry
            break
    raise UserError(
        f"{path}: no {FILE_NAME} above it lists this file, so its checksums are unknown; read it in its data set"
    )
