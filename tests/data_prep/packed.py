"""Helpers for tests of the packer: fields of a packed data set in registry units, digests of its files."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from climax_hpc.data_prep.verify import verify
from climax_hpc.utils.files import sha256

NAME = "TEST-1_historical_r1i1p1f1"  # the source that `conftest.write_cmip6` writes by default


def physical(folder: Path, source: str = NAME) -> NDArray[Any]:
    """All steps (T, C, H, W) of a source in registry units; the data set is verified first."""
    parts = []
    for shard in verify(folder).sources[source].shards:
        with h5py.File(folder / shard.file) as file:
            parts.append(file["fields"][:] * file["std"][:][:, None, None] + file["mean"][:][:, None, None])
    return np.concatenate(parts)


def static(folder: Path, source: str = NAME) -> dict[str, NDArray[np.float32]]:
    """Static fields (H, W) of a source, in the order of their file."""
    with h5py.File(folder / source / "static.h5") as file:
        return dict(zip([name.decode() for name in file["static_channel"][:]], file["static"][:], strict=True))


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file of a data set, by its relative path."""
    return {p.relative_to(folder).as_posix(): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}
