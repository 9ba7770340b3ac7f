"""What the files of a source say about all of its time steps: read once, by one rank for all of a run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.shards.chunk_layout import ChunkLayout
from climax_hpc.shards.manifest import ShardEntry, SourceEntry
from climax_hpc.shards.open_listed import open_listed
from climax_hpc.shards.static_file import read_static
from climax_hpc.shards.stored_chunks import layout_of


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceHeaders:
    """From the first shard, the climatology, the static fields, and shards whose times the manifest does not tell."""

    dtype: np.dtype[Any]
    """Of the stored fields: float16 or float32."""
    layout: ChunkLayout
    """Chunks of a time step."""
    static: dict[str, NDArray[np.float32]]
    """Static fields (H, W) by registry name, physical units; without latitude."""
    cell_methods: dict[str, str]
    """Channel -> CF cell methods of the input that it was packed from; empty text where that stated none."""
    climatology_entries: dict[tuple[int, int], int]
    """Day of the year and hour -> entry of the climatology; empty without one."""
    hours: dict[str, NDArray[np.float64]]
    """File -> times of its steps [hours since 1850-01-01], where the manifest does not tell them."""


def read_headers(
    folder: Path, entry: SourceEntry, first: ShardEntry, uneven: Sequence[ShardEntry], fix: str
) -> SourceHeaders:
    """Open the shard `first`, the climatology, the static fields, and the shards `uneven`; `folder`: where they lie.

    Raises:
        UserError: a file is absent or damaged; ends with `fix`.
    """
    with open_listed(folder, first, fix) as file:
        dtype, layout = file["fields"].dtype, layout_of(file["fields"])
        cell_methods = json.loads(file.attrs.get("cell_methods", "{}"))
        static = read_static(file, folder, entry, fix)
    entries: dict[tuple[int, int], int] = {}
    if entry.climatology:
        with open_listed(folder, entry.climatology, fix) as file:
            keys = zip(file["day_of_year"][:].tolist(), file["hour"][:].tolist(), strict=True)
            entries = {key: number for number, key in enumerate(keys)}
    hours = {}
    for shard in uneven:
        with open_listed(folder, shard, fix) as file:
            hours[shard.file] = file["time"][:]
    return SourceHeaders(
        dtype=dtype,
        layout=layout,
        static=static,
        cell_methods=cell_methods,
        climatology_entries=entries,
        hours=hours,
    )
