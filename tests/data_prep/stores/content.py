"""What a packed data set holds, apart from the names of its input: to compare packs of one store in several places."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

_NAMES_OF_INPUT = {"inputs"}
_OF_THE_BYTES = {"sha256", "header_xxh3", "bytes", "file"}
"""Entries of a manifest that follow from the names of the input in the shards."""


def content(folder: Path) -> dict[str, Any]:
    """Every data set and attribute of every shard and climatology, and the manifest, without names of the input."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.h5")):
        with h5py.File(path) as file:
            found[path.relative_to(folder).as_posix()] = _of_file(file)
    manifest = json.loads((folder / "manifest.json").read_text())
    found["sources"] = _without(manifest["sources"])
    found["settings"] = manifest["settings"]
    return found


def _of_file(file: Any) -> dict[str, Any]:
    held: dict[str, Any] = {f"/{k}": str(v) for k, v in sorted(file.attrs.items()) if k not in _NAMES_OF_INPUT}
    for name, data in file.items():
        values = np.asarray(data)
        held[name] = (
            str(data.dtype),
            data.shape,
            repr(values.tolist()) if values.dtype == object else values.tobytes(),
        )
        held |= {f"{name}/{key}": str(value) for key, value in sorted(data.attrs.items())}
    return held


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(entry) for key, entry in value.items() if key not in _OF_THE_BYTES}
    return [_without(entry) for entry in value] if isinstance(value, list) else value
