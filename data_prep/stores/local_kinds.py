"""What a folder or file on disk is, beside NetCDF and zarr stores that are named `*.zarr`; imports nothing heavy."""

import json
from collections.abc import Sequence
from pathlib import Path

from climax_hpc.data_prep.stores.urls import is_url

ZARR_FILES = ("zarr.json", ".zgroup", ".zarray", ".zmetadata")
GROUP_FILES = ("zarr.json", ".zmetadata", ".zgroup")
REPOSITORY_FILES = ("refs/branch.main/ref.json", "repo")
"""Of an icechunk repository, in the formats 1 and 2."""
PARQUET = (
    "holds references in Parquet, which are not read; write them as kerchunk JSON or into an icechunk repository "
    "(VirtualiZarr does both)"
)
_HEAD_BYTES = 4096


def is_zarr(folder: Path) -> bool:
    """True for a zarr store or an array of one, of format 2 or 3."""
    return any((folder / name).is_file() for name in ZARR_FILES)


def why_no_store(folder: Path) -> str:
    """Why a folder with files of zarr is no store that can be packed; empty if it may be one."""
    if is_parquet(_head(folder / ".zmetadata")):
        return PARQUET
    if (folder / ".zarray").is_file() or node_type(_head(folder / "zarr.json")) == "array":
        return "is an array without a store around it; put it into the zarr store that it belongs to"
    return ""


def zarr_store(path: Path) -> Path | None:
    """The zarr store that a path is or lies in; None if there is none."""
    around = (path, *path.parents)
    named = next((folder for folder in around if folder.suffix == ".zarr" and folder.is_dir()), None)
    if named is not None or path.is_file():
        return named
    store = None
    for folder in around:
        if is_zarr(folder):
            store = folder
        elif store is not None:
            break
    return store


def is_store_input(given: str | Sequence[str]) -> bool:
    """True for a URL, a list, an icechunk repository or a reference file: not for folders of files and zarr stores."""
    return not isinstance(given, str) or is_url(given) or why_other_store(Path(given)) != ""


def why_other_store(path: Path) -> str:
    """What a folder or file on disk is that opens as a store only if it is named itself; empty if it is not."""
    if path.is_dir():
        held = any((path / name).is_file() for name in REPOSITORY_FILES)
        return "is an icechunk repository" if held and (path / "snapshots").is_dir() else ""
    if path.suffix == ".json" and path.is_file():
        head = _head(path)
        if any(sign in head for sign in (b'"refs"', b'".zgroup"', b'".zmetadata"')):
            return "is a file of virtual references"
    return ""


def is_parquet(metadata: bytes) -> bool:
    """True for the `.zmetadata` of references that kerchunk wrote as Parquet."""
    return b'"record_size"' in metadata


def node_type(raw: bytes) -> str:
    """`group` or `array`, as a zarr.json says; empty if it does not."""
    try:
        content = json.loads(raw)
    except ValueError:
        return "array" if b'"node_type": "array"' in raw else ""
    return str(content.get("node_type", "")) if isinstance(content, dict) else ""


def _head(path: Path) -> bytes:
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)
