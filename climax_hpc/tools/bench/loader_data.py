"""Writes the input of the loader benchmark: a packed source of noise, and the same fields as .npz files.

Dimensions: T steps of a shard · C channels · H, W grid.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from climax_hpc.data.packed_source import PackedSource
from climax_hpc.fields.calendars import iso
from climax_hpc.fields.grid import Grid, regular_grid
from climax_hpc.fields.variables import REGISTRY
from climax_hpc.shards.chunk_layout import STEP, choose_layout
from climax_hpc.shards.chunk_table import header_checksum
from climax_hpc.shards.manifest import ShardEntry, SourceEntry
from climax_hpc.shards.shard import Header, ShardWriter
from climax_hpc.utils.atomic import sync
from climax_hpc.utils.files import write_json

NAMES = [name for name, variable in REGISTRY.items() if not variable.static][:48]
STEP_HOURS = 6.0
_SOURCE = "bench"
_STATISTICS = {"mean": 0.0, "std": 1.0, "min": -6.0, "max": 6.0, "missing_share": 0.0}
"""Of the noise: the loader uses mean and std."""


def write_source(
    folder: Path, *, rows: int, shards: int, steps: int, names: Sequence[str] = NAMES, chunks: str = STEP
) -> PackedSource:
    """A source on rows × 2·rows cells: `shards` files of `steps` steps, one segment, float16; `chunks` as in `pack`."""
    grid = regular_grid(180 / rows)
    head = header(grid, names)
    layout = choose_layout((len(names), *grid.shape), 2, chunks)
    (folder / _SOURCE).mkdir()
    entries = []
    for k in range(shards):
        path = folder / _SOURCE / f"{k:03d}.h5"
        hours = STEP_HOURS * np.arange(k * steps, (k + 1) * steps)
        writer = ShardWriter(path, head, {"time": hours}, "float16", layout=layout)
        for t in range(steps):
            writer.write(t, _fields(grid, k * steps + t, len(names)))
        writer.close()
        sync(path)  # only pages that are on disk can be evicted from the page cache
        first, last = (iso(round(3600 * STEP_HOURS * i), "noleap") for i in (k * steps, (k + 1) * steps - 1))
        entries.append(
            ShardEntry(
                file=f"{_SOURCE}/{path.name}",
                sha256="",
                header_xxh3=header_checksum(path),
                bytes=path.stat().st_size,
                steps=steps,
                first=first,
                last=last,
                segment=0,
            )
        )
    return PackedSource(folder, _SOURCE, _entry(grid, entries, names))


def write_npz(folder: Path, *, rows: int, shards: int, steps: int) -> None:
    """The same fields as in research code: float32, physical units, one array (T, 1, H, W) per variable."""
    grid = regular_grid(180 / rows)
    folder.mkdir()
    for k in range(shards):
        x_TCHW = np.stack([_fields(grid, k * steps + t) for t in range(steps)]).astype(np.float32)
        arrays: dict[str, Any] = {name: x_TCHW[:, c, None] for c, name in enumerate(NAMES)}
        np.savez(folder / f"{k:03d}.npz", **arrays)
    write_json(folder / "about.json", {"names": NAMES, "mean": [0.0] * len(NAMES), "std": [1.0] * len(NAMES)})


def _fields(grid: Grid, step: int, channels: int = len(NAMES)) -> Any:
    """Noise (C, H, W), different at every step."""
    size = channels * grid.shape[0] * grid.shape[1]
    noise = np.random.default_rng(0).standard_normal(65_537).astype(np.float16)
    return np.resize(np.roll(noise, step), size).reshape(channels, *grid.shape)


def header(grid: Grid, names: Sequence[str] = NAMES) -> Header:
    """Header of a six-hourly shard of these channels, in units of one standard deviation."""
    return Header(
        source=_SOURCE,
        frequency="6hr",
        step_hours=STEP_HOURS,
        calendar="noleap",
        identity={},
        inputs=[],
        regrid="conservative",
        cell_methods={},
        channels=list(names),
        mean=np.zeros(len(names)),
        std=np.ones(len(names)),
        grid=grid,
    )


def _entry(grid: Grid, shards: list[ShardEntry], names: Sequence[str]) -> SourceEntry:
    return SourceEntry(
        identity={},
        frequency="6hr",
        step_hours=STEP_HOURS,
        calendar="noleap",
        channels=list(names),
        static=[],
        grid=grid.to_dict(),
        statistics=dict.fromkeys(names, _STATISTICS),
        shards=shards,
        climatology=None,
        gaps=[],
    )
