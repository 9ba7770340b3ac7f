"""The members of one forecast for the report: their fields on the map, and their way through the lead times at points.

Dimensions: M members · V variables · P points · T lead times · H, W grid of the source · h, w cells of the map.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.sampler import Sample
from climax_hpc.fields.grid import Grid
from climax_hpc.fields.regions import Cells, cut

MOST_MEMBERS = 50
"""Members whose fields are kept."""
_POINTS = ((50.0, 10.0), (40.0, 260.0), (-35.0, 150.0))
"""Latitude and longitude of the points on a global map."""


class MemberForecasts(Protocol):
    """A model with members, such as `Forecaster`."""

    variables: tuple[str, ...]

    def forecast_members(self, samples: Sequence[Sample]) -> Tensor:
        """Forecasts (B, M, V, H, W) in the z-scores of the source."""
        ...


def member_maps(
    model: MemberForecasts, source: PackedSource, shown: Sample, lead_steps: Sequence[int], grid: Grid, cells: Cells
) -> dict[str, NDArray[Any]]:
    """Arrays of maps.npz in physical units: `members` (M, V, h, w), and the fans (docs/guides/evaluation.md).

    Args:
        model: forecasts states, not means over a window.
        source: holds the truth.
        shown: start and lead time of the map.
        lead_steps: lead times of the fans, in time steps of the source.
        grid: that of the map.
        cells: rows and columns of the source that the map shows.

    Returns:
        Empty for a single member.
    """
    place = [source.channels.index(name) for name in model.variables]
    mean_V11, std_V11 = (table[place][:, None, None] for table in (source.mean_C, source.std_C))

    def physical(lead: int) -> NDArray[np.float32]:
        """Members (M, V, h, w)."""
        y_MVHW = model.forecast_members([Sample(time_index=shown.time_index, lead_steps=lead)])[0, :MOST_MEMBERS]
        return cut((y_MVHW.cpu().numpy() * std_V11 + mean_V11).astype(np.float32), cells)

    members_MVhw = physical(shown.lead_steps)
    if len(members_MVhw) == 1:
        return {}
    rows, columns = _nearest(grid, _POINTS if np.ptp(grid.lon) > 300 else [_middle(grid)])
    found: list[NDArray[np.float32]] = []
    truth: list[NDArray[np.float32]] = []
    leads = [lead for lead in sorted(lead_steps) if _has(source, shown.time_index, lead)]
    for lead in leads:
        found.append(physical(lead)[:, :, rows, columns])
        truth_VHW = source.read(shown.time_index + lead)[place].astype(np.float64) * std_V11 + mean_V11
        truth.append(cut(truth_VHW.astype(np.float32), cells)[:, rows, columns])
    if not leads:
        return {"members": members_MVhw}
    return {
        "members": members_MVhw,
        "fan_variables": np.array(model.variables),
        "fan_lead_hours": np.array(leads, np.float64) * source.step_hours,
        "fan_lat": grid.lat[rows],
        "fan_lon": grid.lon[columns],
        "fan_members": np.stack(found).transpose(3, 2, 0, 1),
        "fan_truth": np.stack(truth).transpose(2, 1, 0),
    }


def _has(source: PackedSource, start: int, lead_steps: int) -> bool:
    """True where the source holds the time that is so many time steps after a start."""
    last = start + lead_steps
    return last < source.steps and bool(
        np.isclose(source.hours[last] - source.hours[start], lead_steps * source.step_hours)
    )


def _middle(grid: Grid) -> tuple[float, float]:
    return float(grid.lat[len(grid.lat) // 2]), float(grid.lon[len(grid.lon) // 2])


def _nearest(grid: Grid, points: Sequence[tuple[float, float]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the cells nearest to points, each cell once."""
    found: dict[tuple[int, int], None] = {}
    for lat, lon in points:
        away = np.abs((grid.lon - lon + 180) % 360 - 180)
        found[int(np.abs(grid.lat - lat).argmin()), int(away.argmin())] = None
    rows, columns = zip(*found, strict=True)
    return np.array(rows), np.array(columns)
