"""Maps: a field, its truth and its error side by side, from the maps.npz of an evaluation.

Dimensions: M variables of maps.npz · H, W grid.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from climax_hpc.errors import UserError
from climax_hpc.evaluation.output import MAPS_FILE
from climax_hpc.fields.variables import lookup
from climax_hpc.utils.files import check_is_plain_file
from climax_hpc.utils.formatting import pretty_units
from climax_hpc.utils.system_errors import refuse_system_error

_COAST = 0.5  # land fraction where the coast is drawn
_ARRAYS = ("variables", "lat", "lon", "forecast", "truth")
_WIDE = 300.0  # degrees of longitude above which a map is drawn as global


@dataclass(frozen=True, kw_only=True)
class SampleMaps:
    """One field and its truth, in physical units."""

    variables: list[str]
    lat: NDArray[np.float64]
    lon: NDArray[np.float64]
    forecast_MHW: NDArray[np.float32]
    truth_MHW: NDArray[np.float32]
    land_HW: NDArray[np.float32] | None

    @classmethod
    def load(cls, folder: str | Path) -> "SampleMaps":
        """Read maps.npz of an evaluation.

        Raises:
            UserError: it is absent or unreadable.
        """
        arrays = read_maps(folder)
        return cls(
            variables=arrays["variables"].tolist(),
            lat=arrays["lat"],
            lon=arrays["lon"],
            forecast_MHW=arrays["forecast"],
            truth_MHW=arrays["truth"],
            land_HW=arrays.get("land_sea_mask"),
        )


def read_maps(folder: str | Path) -> dict[str, NDArray[Any]]:
    """The arrays of maps.npz, of forecasts or downscaling.

    Raises:
        UserError: it is absent or unreadable.
    """
    path = Path(folder) / MAPS_FILE
    check_is_plain_file(path, "the maps of `climax-hpc evaluate`; run it again")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if lacking := [name for name in _ARRAYS if name not in arrays]:
            raise ValueError(f"it lacks {', '.join(lacking)}")
    except Exception as error:
        refuse_system_error(error, path)
        raise UserError(
            f"{path} is not readable ({str(error).split('. ')[0]}): run `climax-hpc evaluate` again"
        ) from None
    return arrays


def map_triple(maps: SampleMaps, variable: str, ours: str = "forecast") -> Figure:
    """The field that `ours` names, truth and error of one variable."""
    wide = float(np.ptp(maps.lon) / max(np.ptp(maps.lat), 1e-6))  # 2 of the globe
    figure = Figure(figsize=(11, float(np.clip(0.9 + 3.7 / wide, 2, 6))), layout="constrained")
    draw_map_triple(figure, maps, variable, ours)
    return figure


def draw_map_triple(figure: Figure | SubFigure, maps: SampleMaps, variable: str, ours: str = "forecast") -> None:
    """Three maps side by side: field and truth on one colour scale, error on a symmetric one."""
    place, known = maps.variables.index(variable), lookup(variable)
    forecast_HW, truth_HW = maps.forecast_MHW[place], maps.truth_MHW[place]
    error_HW = forecast_HW - truth_HW
    limits, colours = colour_scale(variable, np.concatenate([forecast_HW, truth_HW]))
    bound = float(np.nanpercentile(np.abs(error_HW), 99)) or 1.0
    panels = figure.subplots(1, 3)
    for panel, field_HW, title, ends, palette in (
        (panels[0], forecast_HW, ours, limits, colours),
        (panels[1], truth_HW, "truth", limits, colours),
        (panels[2], error_HW, "error", (-bound, bound), "RdBu_r"),
    ):
        mesh = draw_map(panel, maps, field_HW, ends, palette)
        panel.set_title(f"{known.short_name} {title} [{pretty_units(known.units)}]")
        panel.xaxis.set_major_formatter("{x:g}°")
        panel.yaxis.set_major_formatter("{x:g}°")
        figure.colorbar(mesh, ax=panel, location="bottom", shrink=0.8, aspect=36, pad=0.03, extend="both")


def colour_scale(variable: str, fields: NDArray[Any]) -> tuple[tuple[float, float], str]:
    """Ends and palette of the colours of these fields; symmetric for winds."""
    low, high = (float(end) for end in np.nanpercentile(fields, (0.5, 99.5)))
    if "wind" in lookup(variable).standard_name:
        return (-max(-low, high), max(-low, high)), "PuOr_r"
    return (low, high), "viridis"


def draw_map(panel: Axes, maps: SampleMaps, field_HW: NDArray[Any], ends: tuple[float, float], palette: str) -> Any:
    """A field with the coast; returns what a colour bar needs."""
    mesh = panel.pcolormesh(
        maps.lon,
        maps.lat,
        field_HW,
        vmin=ends[0],
        vmax=ends[1],
        cmap=palette,
        shading="nearest",
        rasterized=True,
    )
    if np.ptp(maps.lon) > _WIDE:
        panel.set(xticks=range(0, 360, 90), yticks=(-60, -30, 0, 30, 60))
    _coast(panel, maps)
    panel.set(xlim=_edges(maps.lon), ylim=sorted(_edges(maps.lat)), aspect="equal")
    panel.grid(False)
    panel.spines[["top", "right"]].set_visible(True)
    return mesh


def _coast(panel: Axes, maps: SampleMaps) -> None:
    if maps.land_HW is None or not (maps.land_HW > _COAST).any() or not (maps.land_HW <= _COAST).any():
        return
    lon, land_HW = maps.lon, maps.land_HW
    if np.ptp(lon) > _WIDE:  # one column from either side, so that coasts reach the edges of the map
        lon = np.concatenate([lon[-1:] - 360, lon, lon[:1] + 360])
        land_HW = np.concatenate([land_HW[:, -1:], land_HW, land_HW[:, :1]], axis=1)
    panel.contour(lon, maps.lat, np.nan_to_num(land_HW), levels=[_COAST], colors="#202020", linewidths=0.7)


def _edges(centres: NDArray[np.float64]) -> tuple[float, float]:
    """First and last edge of cells around these centres."""
    first, last = (centres[1] - centres[0]) / 2, (centres[-1] - centres[-2]) / 2
    return float(centres[0] - first), float(centres[-1] + last)
