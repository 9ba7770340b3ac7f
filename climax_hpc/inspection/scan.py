"""Mean map and area-mean series of every channel of a source, from evenly spread time steps, read one at a time.

Shapes: T time steps read, C channels, H rows, W columns.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.data_prep.manifest import SourceEntry
from climax_hpc.data_prep.shard import RESTORE, open_shard
from climax_hpc.errors import UserError
from climax_hpc.grid import Grid, latitude_weights

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """What the pictures of a source show, in physical units."""

    grid: Grid
    means_CHW: Array
    """NaN where every step is missing."""
    series_TC: Array
    """Area means over the cells that are not missing."""
    seconds: NDArray[np.int64]
    """(T,), since 1850, in the calendar of the source."""
    stretch: NDArray[np.int64]
    """(T,), number of the stretch without a gap."""
    static: dict[str, NDArray[np.float32]]
    """Field (H, W) by name."""


def scan(dataset: Path, source: SourceEntry, most: int) -> Scan:
    """Read at most `most` time steps of a source (0: all).

    Raises:
        UserError: a shard that cannot be read.
    """
    total_steps = sum(s.steps for s in source.shards)
    count = min(total_steps, most or total_steps)
    chosen = np.unique(np.linspace(0, total_steps - 1, count).round().astype(np.int64))
    grid = Grid(**{key: np.asarray(source.grid[key]) for key in ("lat", "lon", "lat_bnds", "lon_bnds")})
    weight_HW = np.repeat(latitude_weights(grid)[:, None], len(grid.lon), axis=1)
    shape = (len(source.channels), *grid.shape)
    sums_CHW, counts_CHW = np.zeros(shape), np.zeros(shape)
    series, seconds, stretch = [], [], []
    static: dict[str, NDArray[np.float32]] = {}
    before = 0
    for shard in source.shards:
        own = chosen[(chosen >= before) & (chosen < before + shard.steps)] - before
        before += shard.steps
        if not len(own):
            continue
        try:
            with open_shard(dataset / shard.file, str(dataset / shard.file)) as file:
                static = static or _static(file)
                mean, std = (np.asarray(file[key][:])[:, None, None] for key in ("mean", "std"))
                times = np.asarray(file["time"][:])
                for step in own.tolist():
                    field_CHW = np.asarray(file["fields"][step], np.float64) * std + mean
                    valid_CHW = np.isfinite(field_CHW)
                    filled_CHW = np.where(valid_CHW, field_CHW, 0.0)
                    sums_CHW += filled_CHW
                    counts_CHW += valid_CHW
                    area_C = (valid_CHW * weight_HW).sum(axis=(1, 2))
                    total_C = (filled_CHW * weight_HW).sum(axis=(1, 2))
                    series.append(np.divide(total_C, area_C, out=np.full(shape[0], np.nan), where=area_C > 0))
                    seconds.append(round(float(times[step]) * 3600))
                    stretch.append(shard.stretch)
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise UserError(
                f"{dataset / shard.file}: cannot be read ({' '.join(str(error).split())}); {RESTORE}"
            ) from error
    return Scan(
        grid=grid,
        means_CHW=np.divide(sums_CHW, counts_CHW, out=np.full(shape, np.nan), where=counts_CHW > 0),
        series_TC=np.array(series),
        seconds=np.array(seconds, np.int64),
        stretch=np.array(stretch, np.int64),
        static=static,
    )


def _static(file: Any) -> dict[str, NDArray[np.float32]]:
    return {name.decode(): file["static"][i] for i, name in enumerate(file["static_channel"][:])}
