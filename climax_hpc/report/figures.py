"""The figures of a report: loss curves, skill against lead time, forecast/truth/error maps.

Dimensions: M variables of the sample forecast · H, W grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from climax_hpc.errors import UserError
from climax_hpc.evaluation.scorecard import MAPS_FILE, Scorecard, pretty_units
from climax_hpc.report.runs import RunHistory
from climax_hpc.report.style import BASELINE_STYLES, model_colours
from climax_hpc.variables import lookup

_COAST = 0.5  # land fraction where the coast is drawn


@dataclass(frozen=True, kw_only=True)
class SampleMaps:
    """One forecast and its truth, physical units."""

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
        path = Path(folder) / MAPS_FILE
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            return cls(
                variables=arrays["variables"].tolist(),
                lat=arrays["lat"],
                lon=arrays["lon"],
                forecast_MHW=arrays["forecast"],
                truth_MHW=arrays["truth"],
                land_HW=arrays.get("land_sea_mask"),
            )
        except Exception as error:
            raise UserError(f"{path} is not readable ({error}): run `climax-hpc evaluate` again") from None


def loss_curves(histories: Sequence[RunHistory]) -> Figure:
    """Training loss of every run on a logarithmic axis, its learning rate below."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    colours = model_colours([h.label for h in histories])
    for history in histories:
        upper.plot(history.steps, history.loss, color=colours[history.label], lw=1.3, label=legend_label(history.label))
        lower.plot(history.steps, history.learning_rate, color=colours[history.label], lw=1.3)
    upper.set(yscale="log", ylabel="training loss")
    lower.set(xlabel="optimiser step", ylabel="learning rate", ylim=(0, None))
    upper.legend(loc="upper right")
    return figure


def skill_curves(card: Scorecard, variables: Sequence[str]) -> Figure:
    """RMSE (upper row) and ACC (lower row) against lead time, one column per variable."""
    figure = Figure(figsize=(max(6.0, 2.7 * len(variables)), 5.4), layout="constrained")
    draw_skill(figure, card, variables, metrics=("rmse", "acc"))
    return figure


def draw_skill(
    figure: Figure | SubFigure, card: Scorecard, variables: Sequence[str], *, metrics: Sequence[str]
) -> None:
    """Panels of metrics × variables with one legend below."""
    axes = figure.subplots(len(metrics), len(variables), squeeze=False, sharex=True)
    for row, metric in enumerate(metrics):
        for column, variable in enumerate(variables):
            _skill_panel(axes[row, column], card, variable, metric)
            if row == 0:
                axes[row, column].set_title(lookup(variable).short_name, fontweight="bold")
            if row == len(metrics) - 1:
                axes[row, column].set_xlabel("lead time [h]")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)


def _skill_panel(panel: Axes, card: Scorecard, variable: str, metric: str) -> None:
    leads = card.lead_hours
    for (colour, dash), label in zip(BASELINE_STYLES, card.baselines, strict=False):
        values = [_or_nan(card.value(label, variable, lead, metric)) for lead in leads]
        panel.plot(leads, values, color=colour, ls=dash, lw=1.4, label=legend_label(label))
    for label, colour in model_colours(card.models).items():
        bands = [card.interval(label, variable, lead, metric) or (np.nan, np.nan) for lead in leads]
        panel.fill_between(leads, *np.asarray(bands, np.float64).T, color=colour, alpha=0.2, lw=0)
        values = [_or_nan(card.value(label, variable, lead, metric)) for lead in leads]
        panel.plot(leads, values, color=colour, lw=1.8, marker="o", ms=3, label=legend_label(label))
    units = pretty_units(lookup(variable).units)
    panel.set_ylabel("ACC" if metric == "acc" else f"{metric.upper()} [{units}]")
    if metric == "rmse":
        panel.set_ylim(0, None)
    panel.set_xticks(np.arange(0, max(leads) + 1, 24 * max(1, round(max(leads) / 24 / 5))))


def map_triple(maps: SampleMaps, variable: str) -> Figure:
    """Forecast, truth and error of one variable."""
    figure = Figure(figsize=(11, 2.75), layout="constrained")
    draw_map_triple(figure, maps, variable)
    return figure


def draw_map_triple(figure: Figure | SubFigure, maps: SampleMaps, variable: str) -> None:
    """Three maps side by side: forecast and truth on one colour scale, error on a symmetric one."""
    place, known = maps.variables.index(variable), lookup(variable)
    forecast_HW, truth_HW = maps.forecast_MHW[place], maps.truth_MHW[place]
    error_HW = forecast_HW - truth_HW
    low, high = np.nanpercentile(np.concatenate([forecast_HW, truth_HW]), (0.5, 99.5))
    colours = "viridis"
    if "wind" in known.standard_name:
        low, high, colours = -max(-low, high), max(-low, high), "PuOr_r"
    bound = float(np.nanpercentile(np.abs(error_HW), 99)) or 1.0
    panels = figure.subplots(1, 3)
    for panel, field_HW, title, limits, palette in (
        (panels[0], forecast_HW, "forecast", (low, high), colours),
        (panels[1], truth_HW, "truth", (low, high), colours),
        (panels[2], error_HW, "error", (-bound, bound), "RdBu_r"),
    ):
        mesh = panel.pcolormesh(
            maps.lon,
            maps.lat,
            field_HW,
            vmin=limits[0],
            vmax=limits[1],
            cmap=palette,
            shading="nearest",
            rasterized=True,
        )
        _coast(panel, maps)
        panel.set_title(f"{known.short_name} {title} [{pretty_units(known.units)}]")
        panel.set(xticks=range(0, 360, 90), yticks=(-60, -30, 0, 30, 60), aspect="equal")
        panel.xaxis.set_major_formatter("{x:g}°")
        panel.yaxis.set_major_formatter("{x:g}°")
        panel.grid(False)
        panel.spines[["top", "right"]].set_visible(True)
        figure.colorbar(mesh, ax=panel, location="bottom", shrink=0.8, aspect=36, pad=0.03, extend="both")


def summary(card: Scorecard, maps: SampleMaps, variables: Sequence[str], note: str) -> Figure:
    """Skill of the headline variables above one map triple: the picture of a README."""
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    upper, lower = np.asarray(figure.subfigures(2, 1, height_ratios=(1.15, 1))).tolist()
    draw_skill(upper, card, variables, metrics=("rmse",))
    shown = card.content["map"]
    lower.suptitle(f"{shown['model']}: {shown['lead_hours']:g} h forecast for {shown['valid']}. {note}", fontsize=9)
    draw_map_triple(lower, maps, next((v for v in variables if v in maps.variables), maps.variables[0]))
    return figure


def _coast(panel: Axes, maps: SampleMaps) -> None:
    if maps.land_HW is None or not (maps.land_HW > _COAST).any() or not (maps.land_HW <= _COAST).any():
        return
    # One column from either side, so that coasts run to the edges of the map.
    lon: Any = np.concatenate([maps.lon[-1:] - 360, maps.lon, maps.lon[:1] + 360])
    land_HW = np.concatenate([maps.land_HW[:, -1:], maps.land_HW, maps.land_HW[:, :1]], axis=1)
    panel.contour(lon, maps.lat, np.nan_to_num(land_HW), levels=[_COAST], colors="#202020", linewidths=0.7)
    half = (maps.lon[1] - maps.lon[0]) / 2
    panel.set_xlim(maps.lon[0] - half, maps.lon[-1] + half)


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def legend_label(label: str) -> str:
    """A label that the legend shows as it is: no hiding by a leading underscore, no mathematics between dollars."""
    escaped = label.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped
