"""Mean maps and area-mean time series of a source, as PNG.

Shapes: T time steps, C channels, H rows, W columns.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from climax_hpc.data.packed_source import PackedSource
from climax_hpc.fields.grid import Grid
from climax_hpc.fields.variables import Variable, lookup
from climax_hpc.report.style import figure_style
from climax_hpc.shards.manifest import SourceEntry
from climax_hpc.tools.inspect.axes import SECONDS_PER_YEAR, round_ticks, time_axis, year_means
from climax_hpc.tools.inspect.scan import Array, Scan, scan
from climax_hpc.utils.formatting import pretty_units

_COAST = 0.5  # land fraction at the coastline
_LEAST_WIDTH = 7.0  # [inch], for the name of a source in the title
_LINE, _FAINT = "#2f7fd8", "#a9c8ec"
_PALETTES = (
    ("wind", "PuOr_r"),
    ("temperature", "RdYlBu_r"),
    ("humidity", "YlGnBu"),
    ("precipitation", "YlGnBu"),
    ("emission", "OrRd"),
)


# Units in the figures; shards and the table use those of the registry.
_SHOWN_UNITS = {"Pa": ("hPa", 0.01), "precipitation": ("mm day-1", 86400.0), "specific_humidity": ("g kg-1", 1000.0)}


def draw_source(dataset: Path, name: str, source: SourceEntry, folder: Path, most: int) -> Mapping[Path, Figure]:
    """The figures `<source>_means.png` and `<source>_series.png`, by path."""
    found = scan(PackedSource(dataset, name, source), most)
    total = sum(s.steps for s in source.shards)
    read = f"{len(found.seconds)} of {total} steps" if len(found.seconds) < total else f"{total} steps"
    with figure_style(for_page=False):
        return {
            folder / f"{name}_means.png": _maps(found, source, f"{name}: time mean of {read}"),
            folder / f"{name}_series.png": _series(found, source, f"{name}: area mean, {read}"),
        }


def _maps(found: Scan, source: SourceEntry, title: str) -> Figure:
    """One map per channel, four in a row."""
    across = min(len(source.channels), 4)
    down = -(-len(source.channels) // across)
    aspect = np.ptp(found.grid.lat_bnds) / np.ptp(found.grid.lon_bnds)
    width = max(3.6 * across, _LEAST_WIDTH)
    height = 0.45 + down * (0.86 * width / across * min(aspect, 1.4) + 0.82)
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=11, fontweight="bold")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for panel, channel, mean_HW in zip(panels, source.channels, found.means_CHW, strict=False):
        _map(figure, panel, lookup(channel), mean_HW, found)
    for panel in panels[len(source.channels) :]:
        panel.set_axis_off()
    return figure


def _map(figure: Figure, panel: Axes, known: Variable, mean_HW: Array, found: Scan) -> None:
    grid = found.grid
    units, factor = _shown(known)
    mean_HW = mean_HW * factor
    low, high = np.nanpercentile(mean_HW, (1, 99))
    palette = next((p for word, p in _PALETTES if word in known.standard_name or word in known.name), "viridis")
    if palette == "PuOr_r":
        low, high = -max(-low, high, 1e-12), max(-low, high, 1e-12)
    mesh = panel.pcolormesh(
        _edges(grid.lon_bnds), _edges(grid.lat_bnds), mean_HW, vmin=low, vmax=high, cmap=palette, rasterized=True
    )
    _outline(panel, found)
    panel.set_title(f"{known.short_name} [{units}]", fontweight="bold")
    panel.set(aspect="equal", facecolor="#d9d9d9")  # shown where cells are missing
    panel.set(xlim=(grid.lon_bnds[0, 0], grid.lon_bnds[-1, 1]), ylim=(grid.lat_bnds[0, 0], grid.lat_bnds[-1, 1]))
    panel.set_xticks(round_ticks(*panel.get_xlim()))
    panel.set_yticks(round_ticks(*panel.get_ylim()))
    panel.xaxis.set_major_formatter("{x:g}°")
    panel.yaxis.set_major_formatter("{x:g}°")
    panel.grid(False)
    panel.spines[["top", "right"]].set_visible(True)
    panel.tick_params(labelsize=7)
    bar = figure.colorbar(mesh, ax=panel, location="bottom", shrink=0.85, aspect=34, pad=0.03, extend="both")
    bar.ax.tick_params(labelsize=7)
    bar.ax.locator_params(nbins=5)


def _shown(known: Variable) -> tuple[str, float]:
    """Units in the figures, and the factor from those of the registry."""
    kind = next((word for word in _SHOWN_UNITS if word in known.name), known.units)
    units, factor = _SHOWN_UNITS.get(kind, (known.units, 1.0))
    return pretty_units(units), factor


def _edges(bnds: Array) -> Array:
    return np.append(bnds[:, 0], bnds[-1, 1])


def _outline(panel: Axes, found: Scan) -> None:
    """Draw the coastline from the land-sea mask, or else mountains from the orography, if the data set has one."""
    for name, level in (("land_sea_mask", _COAST), ("orography", 500.0)):
        field_HW = found.static.get(name)
        if field_HW is None or not (field_HW > level).any() or not (field_HW <= level).any():
            continue
        lon, closed_HW = _closed(found.grid, np.nan_to_num(field_HW))
        panel.contour(lon, found.grid.lat, closed_HW, levels=[level], colors="#202020", linewidths=0.7)
        return


def _closed(grid: Grid, field_HW: NDArray[np.float32]) -> tuple[Array, NDArray[np.float32]]:
    """A global field extended by one column on either side, so that contours reach the edges of the map."""
    if grid.lon_bnds[-1, 1] - grid.lon_bnds[0, 0] < 359.9:
        return grid.lon, field_HW
    lon = np.concatenate([grid.lon[-1:] - 360, grid.lon, grid.lon[:1] + 360])
    return lon, np.concatenate([field_HW[:, -1:], field_HW, field_HW[:, :1]], axis=1)


def _series(found: Scan, source: SourceEntry, title: str) -> Figure:
    """One panel per channel, three in a row; lines break at gaps; yearly means are drawn over monthly values."""
    across = min(len(source.channels), 3)
    down = -(-len(source.channels) // across)
    figure = Figure(figsize=(max(4.6 * across, _LEAST_WIDTH), 0.55 + 1.75 * down), layout="constrained")
    figure.suptitle(title, fontsize=11, fontweight="bold")
    panels = figure.subplots(down, across, squeeze=False, sharex=True)
    parts = np.split(np.arange(len(found.seconds)), np.flatnonzero(np.diff(found.segment) != 0) + 1)
    at, ticks, labels = time_axis(found.seconds, parts, source.calendar)
    yearly = source.frequency == "mon" and len(parts) == 1 and np.ptp(found.seconds) > 3 * SECONDS_PER_YEAR
    for number, (panel, channel) in enumerate(zip(panels.ravel(), source.channels, strict=False)):
        known = lookup(channel)
        units, factor = _shown(known)
        for part in parts:
            dotted: dict[str, Any] = {"marker": ".", "ms": 4} if len(part) < 3 else {}
            colour, width = (_FAINT, 0.8) if yearly else (_LINE, 1.2)
            panel.plot(at[part], factor * found.series_TC[part, number], color=colour, lw=width, **dotted)
        if yearly:
            seconds, means = year_means(found, number, source.calendar)
            panel.plot(seconds, factor * means, color=_LINE, lw=1.8)
        panel.set_title(f"{known.short_name} [{units}]", fontweight="bold")
        panel.set_xticks(ticks, labels)
        panel.tick_params(labelsize=8, labelbottom=number + across >= len(source.channels))
        panel.ticklabel_format(axis="y", useOffset=False)
    for panel in panels.ravel()[len(source.channels) :]:
        panel.set_axis_off()
    if yearly:
        figure.supxlabel("pale: every step; bold: means of calendar years", fontsize=8)
    elif not np.array_equal(at, found.seconds):
        figure.supxlabel("segments side by side: the gaps between them are not to scale", fontsize=8)
    return figure
