"""The static fields of a source: one file of their own, so that no shard holds them again.

Data sets with shards of version 1 and 2 have no such file: every shard and climatology holds the fields.
Shapes: S static fields, H rows, W columns.
"""

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from climax_hpc.errors import UserError
from climax_hpc.shards.chunk_table import header_checksum
from climax_hpc.shards.manifest import SourceEntry, StaticEntry
from climax_hpc.shards.open_listed import open_listed
from climax_hpc.shards.shard import (
    LIBVER,
    RESTORE,
    TEXT,
    Header,
    attach_scales,
    write_attributes,
    write_dataset,
    write_grid,
)
from climax_hpc.utils.files import sha256

_NAMES, _FIELDS = "static_channel", "static"


def static_file(source: str) -> str:
    """Path of the file of a source, relative to the data set."""
    return f"{source}/static.h5"


def write_static(path: Path, header: Header, fields: Mapping[str, NDArray[np.float32]]) -> None:
    """Write the file of a source; `fields`: registry name -> field (H, W), physical units."""
    with h5py.File(path, "w", libver=LIBVER) as file:
        write_attributes(file, header)
        write_dataset(file, _NAMES, np.array(list(fields), object), TEXT)
        write_dataset(file, _FIELDS, np.stack(list(fields.values())).astype(np.float32))
        file[_NAMES].make_scale(_NAMES)
        write_grid(file, header.grid)
        attach_scales(file, {_FIELDS: (_NAMES, "lat", "lon")})


def static_entry(folder: Path, source: str) -> StaticEntry:
    """The entry of the written file of a source; `folder`: of the data set."""
    path = folder / static_file(source)
    return StaticEntry(
        file=static_file(source), sha256=sha256(path), header_xxh3=header_checksum(path), bytes=path.stat().st_size
    )


def read_static(
    file: h5py.File, folder: Path, source: SourceEntry, fix: str = RESTORE
) -> dict[str, NDArray[np.float32]]:
    """Registry name -> static field (H, W) of a source, physical units.

    `file`: an open file of it, which holds the fields in data sets of earlier versions; `folder`: where they lie.

    Raises:
        UserError: the file of the static fields is absent or damaged, or holds others; ends with `fix`.
    """
    found = stored_static(file)
    if not found and source.static_file is not None:
        with open_listed(folder, source.static_file, fix) as own:
            found = stored_static(own)
    if list(found) != source.static:
        raise UserError(
            f"{file.filename}: the static fields of its source are {', '.join(found) or 'in no file'}, expected "
            f"{', '.join(source.static) or 'none'} (manifest); {fix}"
        )
    return found


def stored_static(file: h5py.File) -> dict[str, NDArray[np.float32]]:
    """The static fields in an open file; empty where it holds none."""
    if _FIELDS not in file:
        return {}
    return dict(zip((name.decode() for name in file[_NAMES][:]), file[_FIELDS][:], strict=True))
