"""Figures of the members of one forecast: a stamp map of fields, and fans at points.

Dimensions: M members · V variables · P points · T lead times · H, W grid.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from climax_hpc.fields.variables import lookup
from climax_hpc.report.ensemble_results import Fans
from climax_hpc.report.figures import day_ticks
from climax_hpc.report.maps import SampleMaps, colour_scale, draw_map
from climax_hpc.utils.formatting import pretty_units

_COLUMNS, _MOST_STAMPS, _MOST_POINTS = 4, 9, 3
_FEW = 10
"""Number of members up to which a fan shows each of them, and no quantiles."""
_BANDS = ((5, 95, 0.16), (25, 75, 0.26))
"""Lower and upper percentile of the members, and opacity."""
_TRUTH = "#555555"


def stamp_map(maps: SampleMaps, members_MVHW: NDArray[np.float32], variable: str) -> Figure:
    """Truth, mean and spread, then the first members, on one colour scale; the spread has its own."""
    place, known = maps.variables.index(variable), lookup(variable)
    members_MHW, truth_HW = members_MVHW[:, place].astype(np.float64), maps.truth_MHW[place]
    shown = min(len(members_MHW), _MOST_STAMPS)
    rows = -(-(3 + shown) // _COLUMNS)
    wide = float(np.ptp(maps.lon) / max(np.ptp(maps.lat), 1e-6))
    figure = Figure(figsize=(11, 0.9 + rows * (0.3 + 2.6 / wide)), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False)
    ends, palette = colour_scale(variable, np.concatenate([truth_HW[None], members_MHW[:shown]]))
    mean_HW = members_MHW.mean(axis=0)
    pictures = [("truth", truth_HW), ("mean", mean_HW), *((f"member {m}", members_MHW[m]) for m in range(shown))]
    panels = list(axes.flat)
    spread_panel = panels.pop(2)
    mesh: Any = None
    for panel, (title, field_HW) in zip(panels, pictures, strict=False):
        mesh = draw_map(panel, maps, field_HW, ends, palette)
        _bare(panel, title, bold=title in ("truth", "mean"))
    for unused in panels[len(pictures) :]:
        unused.set_axis_off()
    spread_HW = members_MHW.std(axis=0, ddof=1)
    top = float(np.nanpercentile(spread_HW, 99.5)) or 1.0
    spread_mesh = draw_map(spread_panel, maps, spread_HW, (0, top), "magma")
    _bare(spread_panel, "spread", bold=True)
    units = pretty_units(known.units)
    about: dict[str, Any] = {"location": "bottom", "aspect": 40, "pad": 0.02, "extend": "both"}
    figure.colorbar(mesh, ax=axes[-1, :2], label=f"{known.short_name} [{units}]", **about)
    figure.colorbar(spread_mesh, ax=axes[-1, 2:], label=f"spread [{units}]", **(about | {"extend": "max"}))
    return figure


def _bare(panel: Axes, title: str, *, bold: bool) -> None:
    panel.set(xticks=[], yticks=[])
    panel.set_title(title, fontweight="bold" if bold else "normal", fontsize=9)


def fan_charts(fans: Fans, variables: list[str], colour: str) -> Figure:
    """Members against lead time at each point, with the truth: a row per point, a column per variable."""
    points = min(len(fans.lat_P), _MOST_POINTS)
    figure = Figure(figsize=(max(6.0, 2.7 * len(variables)), 0.7 + 1.9 * points), layout="constrained")
    axes = figure.subplots(points, len(variables), squeeze=False, sharex=True)
    for column, variable in enumerate(variables):
        v = fans.variables.index(variable)
        for p in range(points):
            panel = axes[p, column]
            _fan(panel, fans.lead_hours, fans.members_PVTM[p, v], colour)
            panel.plot(fans.lead_hours, fans.truth_PVT[p, v], color=_TRUTH, lw=1.6, marker="o", ms=3, label="truth")
            panel.set_title(f"{lookup(variable).short_name} at {_point(fans.lat_P[p], fans.lon_P[p])}", fontsize=9)
            panel.set_ylabel(f"[{pretty_units(lookup(variable).units)}]")
        axes[-1, column].set_xlabel("lead time [h]")
        axes[-1, column].set_xticks(day_ticks(fans.lead_hours.tolist()))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    return figure


def _fan(panel: Axes, lead_hours: NDArray[np.float64], members_TM: NDArray[np.float32], colour: str) -> None:
    few = members_TM.shape[1] <= _FEW
    if few:
        for m, series_T in enumerate(members_TM.T):
            panel.plot(lead_hours, series_T, color=colour, lw=0.8, alpha=0.55, label=None if m else "members")
    else:
        for low, high, alpha in _BANDS:
            ends = np.percentile(members_TM, (low, high), axis=1)
            name = f"{low} to {high} % of the members"
            panel.fill_between(lead_hours, *ends, color=colour, alpha=alpha, lw=0, label=name)
    panel.plot(lead_hours, members_TM.mean(axis=1), color=colour, lw=1.8, label="mean")


def _point(lat: float, lon: float) -> str:
    """A place such as 50° N 10° E."""
    east = (lon + 180) % 360 - 180
    return f"{abs(lat):.3g}° {'N' if lat >= 0 else 'S'} {abs(east):.3g}° {'E' if east >= 0 else 'W'}"
