"""The figures of a report: loss curves, skill against lead time, forecast/truth/error maps.

Dimensions: M variables of the sample forecast · H, W grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from climax_hpc.errors import UserError
from climax_hpc.evaluation.metrics import METRICS
from climax_hpc.evaluation.output import MAPS_FILE
from climax_hpc.evaluation.scorecard import Scorecard
from climax_hpc.fields.variables import lookup
from climax_hpc.report.style import BASELINE_COLOUR, baseline_styles, model_colours
from climax_hpc.report.training_curves import RunHistory
from climax_hpc.utils.formatting import pretty_units

_COAST = 0.5  # land fraction where the coast is drawn
_WIDE = 300.0  # degrees of longitude from which a map is one of the globe


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
    for label, style in baseline_styles(card.baselines).items():
        values = [_or_nan(card.value(label, variable, lead, metric)) for lead in leads]
        panel.plot(leads, values, lw=1.4, label=legend_label(label), **style)
    for label, colour in model_colours(card.models).items():
        bands = [card.interval(label, variable, lead, metric) or (np.nan, np.nan) for lead in leads]
        panel.fill_between(leads, *np.asarray(bands, np.float64).T, color=colour, alpha=0.2, lw=0)
        values = [_or_nan(card.value(label, variable, lead, metric)) for lead in leads]
        panel.plot(leads, values, color=colour, lw=1.8, marker="o", ms=3, label=legend_label(label))
    known = METRICS[metric]
    panel.set_ylabel(known.title if known.dimensionless else f"{known.title} [{pretty_units(known.units(variable))}]")
    if known.better == "lower" and known.optimum == 0:
        panel.set_ylim(0, None)
    panel.set_xticks(np.arange(0, max(leads) + 1, 24 * max(1, round(max(leads) / 24 / 5))))


def map_triple(maps: SampleMaps, variable: str, ours: str = "forecast") -> Figure:
    """Forecast (or what else `ours` names), truth and error of one variable."""
    wide = float(np.ptp(maps.lon) / max(np.ptp(maps.lat), 1e-6))  # 2 of the globe
    figure = Figure(figsize=(11, float(np.clip(0.9 + 3.7 / wide, 2, 6))), layout="constrained")
    draw_map_triple(figure, maps, variable, ours)
    return figure


def draw_map_triple(figure: Figure | SubFigure, maps: SampleMaps, variable: str, ours: str = "forecast") -> None:
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
        (panels[0], forecast_HW, ours, (low, high), colours),
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
        panel.set_title(f"{known.short_name} {title} [{pretty_units(known.units)}]")
        if np.ptp(maps.lon) > _WIDE:
            panel.set(xticks=range(0, 360, 90), yticks=(-60, -30, 0, 30, 60))
        _coast(panel, maps)
        panel.set(xlim=_edges(maps.lon), ylim=sorted(_edges(maps.lat)), aspect="equal")
        panel.xaxis.set_major_formatter("{x:g}°")
        panel.yaxis.set_major_formatter("{x:g}°")
        panel.grid(False)
        panel.spines[["top", "right"]].set_visible(True)
        figure.colorbar(mesh, ax=panel, location="bottom", shrink=0.8, aspect=36, pad=0.03, extend="both")


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """A score with its interval, as a row of `interval_panels` shows it."""

    label: str
    value: float
    interval: Sequence[float] | None
    is_model: bool


def interval_panels(panels: Mapping[str, Sequence[ScoreRow]], axis: str) -> Figure:
    """A panel per title, a row per label: the score as a dot, its interval as a bar; models in colour."""
    rows = max(len(scored) for scored in panels.values())
    columns = min(len(panels), 4)
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(2.2 + 2.7 * columns, lines * (0.8 + 0.24 * rows)), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for unused in axes.flat[len(panels) :]:
        unused.set_axis_off()
    for number, (title, scored) in enumerate(panels.items()):
        panel, colours = axes.flat[number], model_colours([s.label for s in scored if s.is_model])
        for row, one in enumerate(scored):
            colour = colours.get(one.label, BASELINE_COLOUR)
            if one.interval:
                panel.plot(one.interval, (row, row), color=colour, lw=3, alpha=0.45, solid_capstyle="butt")
            panel.plot(one.value, row, "o", color=colour, ms=5)
        first_column = number % columns == 0
        panel.set_yticks(range(len(scored)), [legend_label(s.label) if first_column else "" for s in scored])
        panel.set_title(title, fontweight="bold")
        panel.set(ylim=(len(scored) - 0.5, -0.5), xlabel=axis)
    return figure


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
    lon, land_HW = maps.lon, maps.land_HW
    if np.ptp(lon) > _WIDE:  # one column from either side, so that coasts run to the edges of the map
        lon = np.concatenate([lon[-1:] - 360, lon, lon[:1] + 360])
        land_HW = np.concatenate([land_HW[:, -1:], land_HW, land_HW[:, :1]], axis=1)
    panel.contour(lon, maps.lat, np.nan_to_num(land_HW), levels=[_COAST], colors="#202020", linewidths=0.7)


def _edges(centres: NDArray[np.float64]) -> tuple[float, float]:
    """First and last edge of cells around these centres."""
    first, last = (centres[1] - centres[0]) / 2, (centres[-1] - centres[-2]) / 2
    return float(centres[0] - first), float(centres[-1] + last)


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def legend_label(label: str) -> str:
    """A label that the legend shows as it is: no hiding by a leading underscore, no mathematics between dollars."""
    escaped = label.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped
