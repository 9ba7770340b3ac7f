"""Mean map and area-mean series of every channel of a source, from evenly spaced time steps.

Shapes: T time steps read, C channels, H rows, W columns.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from climax_hpc.data.packed_source import PackedSource
from climax_hpc.fields.calendars import to_seconds
from climax_hpc.fields.grid import Grid, latitude_weights

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """Data of the figures of a source, in physical units."""

    grid: Grid
    means_CHW: Array
    """NaN where all steps are missing."""
    series_TC: Array
    """Area means over the cells that are not missing."""
    seconds: NDArray[np.int64]
    """(T,), since 1850, in the calendar of the source."""
    segment: NDArray[np.int64]
    """(T,), number of the segment without a gap."""
    static: dict[str, NDArray[np.float32]]
    """Field (H, W) by name."""


def scan(source: PackedSource, most: int) -> Scan:
    """Read at most `most` time steps of a source (0: all), and verify their checksums.

    Raises:
        UserError: a missing or damaged shard.
    """
    chosen = np.unique(np.linspace(0, source.steps - 1, min(source.steps, most or source.steps)).round().astype(int))
    weight_HW = np.repeat(latitude_weights(source.grid)[:, None], len(source.grid.lon), axis=1)
    mean_C11, std_C11 = (a[:, None, None] for a in (source.mean_C, source.std_C))
    sums_CHW, counts_CHW = np.zeros(source.chunk_shape), np.zeros(source.chunk_shape)
    series_TC = np.full((len(chosen), len(source.channels)), np.nan)
    for row_C, t in zip(series_TC, chosen.tolist(), strict=True):
        field_CHW = source.read(t).astype(np.float64) * std_C11 + mean_C11
        valid_CHW = np.isfinite(field_CHW)
        filled_CHW = np.where(valid_CHW, field_CHW, 0.0)
        sums_CHW += filled_CHW
        counts_CHW += valid_CHW
        area_C = (valid_CHW * weight_HW).sum(axis=(1, 2))
        np.divide((filled_CHW * weight_HW).sum(axis=(1, 2)), area_C, out=row_C, where=area_C > 0)
    firsts = [segment.first for segment in source.segments]
    return Scan(
        grid=source.grid,
        means_CHW=np.divide(sums_CHW, counts_CHW, out=np.full_like(sums_CHW, np.nan), where=counts_CHW > 0),
        series_TC=series_TC,
        seconds=to_seconds(source.hours[chosen]),
        segment=np.searchsorted(firsts, chosen, side="right") - 1,
        static={name: source.static[name] for name in source.static_names},
    )
