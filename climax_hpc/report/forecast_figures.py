"""Figures of forecasts: skill against lead time, comparison with the reference, spectra, and the summary picture.

Dimensions: V variables · T lead times · K wavenumbers.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from climax_hpc.evaluation.metrics import METRICS, RMSE
from climax_hpc.evaluation.output import lead_titles
from climax_hpc.evaluation.scorecard import Scorecard
from climax_hpc.evaluation.stored import TRUTH
from climax_hpc.fields.variables import lookup
from climax_hpc.report.figures import day_ticks, legend_label
from climax_hpc.report.maps import SampleMaps, draw_map_triple
from climax_hpc.report.style import baseline_styles, model_colours
from climax_hpc.utils.formatting import pretty_units

_CURVES = ("rmse", "acc")
"""Metrics drawn against lead time."""
_PERCENT = (5.0, 60.0)  # least and greatest value at the ends of the colour scale; cells beyond it show their number


def skill_curves(card: Scorecard, variables: Sequence[str]) -> Figure:
    """RMSE (upper row) and ACC (lower row) against lead time, one column per variable."""
    figure = Figure(figsize=(max(6.0, 2.7 * len(variables)), 5.4), layout="constrained")
    draw_skill(figure, card, variables, metrics=_CURVES)
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
    panel.set_xticks(day_ticks(leads))


def heat_map(card: Scorecard, label: str) -> Figure:
    """RMSE of a model relative to the reference's; in brackets where the interval of the difference includes 0."""
    reference, leads = card.reference, card.lead_hours
    names = [v for v in card.variables if any(card.difference(label, v, lead) for lead in leads)]
    percent_VT = np.full((len(names), len(leads)), np.nan)
    figure = Figure(figsize=(2.4 + 0.78 * len(leads), 1.1 + 0.27 * len(names)), layout="constrained")
    panel, texts = figure.subplots(), []
    for v, name in enumerate(names):
        for t, lead in enumerate(leads):
            found = card.difference(label, name, lead)
            if found is None or found["relative"] is None:
                continue
            percent_VT[v, t] = 100 * found["relative"]
            shown = _signed(percent_VT[v, t])
            texts.append((t, v, shown if card.is_significant(found) else f"({shown})"))
    bound = float(np.clip(np.nanmax(np.abs(percent_VT), initial=0.0), *_PERCENT))
    for t, v, text in texts:
        dark = abs(percent_VT[v, t]) > 0.6 * bound
        panel.text(t, v, text, ha="center", va="center", fontsize=8, color="white" if dark else "#1d2733")
    mesh = panel.imshow(percent_VT, cmap="RdBu_r", vmin=-bound, vmax=bound, aspect="auto")
    panel.set_xticks(range(len(leads)), lead_titles(leads))
    panel.set_yticks(range(len(names)), [lookup(name).short_name for name in names])
    panel.set_title(f"{RMSE.title} of {legend_label(label)} relative to {legend_label(str(reference))} [%]")
    panel.grid(False)
    panel.tick_params(length=0)
    figure.colorbar(mesh, ax=panel, extend="both", shrink=0.9, label="better ← → worse")
    return figure


def _signed(percent: float) -> str:
    return f"{percent:+.{0 if abs(percent) >= 10 else 1}f}".replace("-", "−")


def spectra(card: Scorecard, variables: Sequence[str]) -> Figure:
    """Power by zonal wavenumber (upper row) and relative to the truth (lower row), one column per variable.

    The models and the reference at every lead time that has spectra; later lead times are paler.
    """
    names = [v for v in variables if any(v in found[TRUTH] for found in card.spectra.values())]
    figure = Figure(figsize=(max(6.0, 2.7 * len(names)), 4.8), layout="constrained")
    axes = figure.subplots(2, len(names), squeeze=False, sharex=True, height_ratios=(1.5, 1))
    for column, name in enumerate(names):
        _spectrum_panels(axes[0, column], axes[1, column], card, name)
        axes[0, column].set_title(lookup(name).short_name, fontweight="bold")
        axes[0, column].set_ylabel(f"power [({pretty_units(lookup(name).units)})²]")
        axes[1, column].set_xlabel("zonal wavenumber")
    axes[1, 0].set_ylabel("ratio to truth")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _spectrum_panels(upper: Axes, lower: Axes, card: Scorecard, name: str) -> None:
    styles: dict[str, dict[str, Any]] = {
        label: {"color": colour} for label, colour in model_colours(card.models).items()
    }
    if card.reference in card.baselines:
        styles[card.reference] = baseline_styles(card.baselines)[card.reference]
    for number, (lead, found) in enumerate(card.spectra.items()):
        truth_K = np.asarray(found[TRUTH].get(name, [np.nan]))[1:]
        wavenumber_K = np.arange(1, len(truth_K) + 1)
        alpha = 1 - 0.7 * number / max(1, len(card.spectra) - 1)
        if number == 0:
            upper.loglog(wavenumber_K, truth_K, color="#555555", lw=2.2, label="truth")
        for label, style in styles.items():
            if name not in found.get(label, {}):
                continue
            power_K = np.asarray(found[label][name])[1:]
            text = f"{legend_label(label)}, {lead} h"
            upper.loglog(wavenumber_K, power_K, lw=1.3, alpha=alpha, label=text, **style)
            ratio_K = np.divide(power_K, truth_K, out=np.full(len(truth_K), np.nan), where=truth_K > 0)
            lower.semilogx(wavenumber_K, ratio_K, lw=1.3, alpha=alpha, **style)
    lower.axhline(1, color="#555555", lw=1)
    lower.set_ylim(0, 1.5)


def summary_figure(card: Scorecard, maps: SampleMaps, variables: Sequence[str], note: str) -> Figure:
    """Skill of the headline variables above one map triple."""
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    upper, lower = np.asarray(figure.subfigures(2, 1, height_ratios=(1.15, 1))).tolist()
    draw_skill(upper, card, variables, metrics=(RMSE.name,))
    shown = card.content["map"]
    lower.suptitle(f"{shown['model']}: {shown['lead_hours']:g} h forecast for {shown['valid']}. {note}", fontsize=9)
    draw_map_triple(lower, maps, next((v for v in variables if v in maps.variables), maps.variables[0]))
    return figure


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value
