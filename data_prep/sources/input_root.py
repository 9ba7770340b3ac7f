"""The input of a pack: a folder of files, or stores; and what every file or array of it is, by content or version."""

import os
from pathlib import Path

from climax_hpc.data_prep.sources.find_files import find_files, is_store_folder, name_below
from climax_hpc.data_prep.sources.skipped import SkippedFile
from climax_hpc.data_prep.stores.store_list import StoreList, StorePath
from climax_hpc.errors import UserError
from climax_hpc.utils.files import sha256, size_of

Root = Path | StoreList
InputPath = Path | StorePath
FINGERPRINT = "fingerprint"
"""Key of what stands in place of the sha256 of an input that is not read as a whole to identify it."""


def folder_of_files(root: Root) -> Path:
    """The folder of an input, for layouts that read no stores.

    Raises:
        UserError: the input is a store.
    """
    if isinstance(root, StoreList):
        raise UserError(f"input: {root} is a store or a URL; this layout reads files in a folder: give that folder")
    return root


def find_inputs(root: Root, suffixes: tuple[str, ...]) -> tuple[list[tuple[str, InputPath]], list[SkippedFile]]:
    """Names and paths of the files and stores of an input; and what is left out.

    Raises:
        UserError: the folder cannot be read.
    """
    if isinstance(root, StoreList):
        return [(name, root / name) for name in root.stores], list(root.skipped)
    paths, skipped = find_files(root, suffixes)
    return [(name_below(root, path), path) for path in paths], skipped


def base_of(root: Root) -> Root:
    """What the names of `find_inputs` lie in: the folder around an input that is a store on disk itself."""
    return Path(os.path.abspath(root)).parent if isinstance(root, Path) and is_store_folder(root) else root


def is_store(path: InputPath) -> bool:
    """True for a store, whose arrays have paths of their own; false for a NetCDF file."""
    return isinstance(path, StorePath) or path.suffix != ".nc"


def identity_of(path: InputPath) -> str:
    """What tells apart two states of an input: the sha256 of a file, the fingerprint of a store on the network."""
    if isinstance(path, StorePath):
        from climax_hpc.data_prep.stores.open_store import fingerprint_of  # imports zarr

        return f"{FINGERPRINT}:{fingerprint_of(path)}"
    return sha256(path)


def identity_entry(identity: str) -> dict[str, str]:
    """An identity as it is recorded in a shard: under the name of its kind."""
    kind, colon, digest = identity.rpartition(":")
    return {kind if colon else "sha256": digest}


def bytes_of_input(path: InputPath) -> int:
    """Bytes of a file, or of an array once decoded."""
    if isinstance(path, StorePath):
        from climax_hpc.data_prep.stores.open_store import bytes_of

        return bytes_of(path)
    return size_of(path)
