"""Figures of ensembles: CRPS, spread and skill against lead time, rank histograms, reliability.

Dimensions: R ranks · K forecast probabilities.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from climax_hpc.evaluation.ensemble_metrics import event
from climax_hpc.evaluation.output import lead_key
from climax_hpc.fields.variables import lookup
from climax_hpc.report.ensemble_results import EnsembleScores, intervals, numbers
from climax_hpc.report.figures import day_ticks, legend_label
from climax_hpc.report.style import model_colours
from climax_hpc.utils.formatting import pretty_units

_FAINT = "#888888"
_SHADES = (1.0, 0.62, 0.38)
"""Opacity of the first, the middle and the last lead time."""
_BOUND = 2.0
"""Largest spread/skill ratio drawn."""
_NEAR = (0.7, 1.3)
"""Ratios that are always within the axis."""


def crps_curves(scores: EnsembleScores, variables: Sequence[str]) -> Figure:
    """Fair CRPS of every ensemble against lead time; the mean absolute error of deterministic models beside it."""
    figure, axes = _panels(scores, variables, rows=1, height=3.3)
    for panel, variable in zip(axes[0], variables, strict=True):
        for label, style in scores.styles().items():
            fair = any(np.isfinite(_curve(scores, label, variable, "fair_crps")))
            _line(panel, scores, label, variable, "fair_crps" if fair else "crps", style)
        for label in (one for one in scores.card.models if one not in scores.ensembles):
            values = numbers([scores.card.value(label, variable, lead, "mae") for lead in scores.card.lead_hours])
            colour = model_colours(scores.card.models)[label]
            panel.plot(
                scores.card.lead_hours, values, color=colour, lw=1.4, ls="--", label=f"{legend_label(label)}, MAE"
            )
        panel.set_ylabel(f"fair CRPS [{pretty_units(lookup(variable).units)}]")
        panel.set_ylim(0, None)
    _legend(figure, axes[0, 0])
    return figure


def spread_skill(scores: EnsembleScores, variables: Sequence[str]) -> Figure:
    """RMSE of the mean and spread against lead time, and their ratio below, of the learned ensembles."""
    figure, axes = _panels(scores, variables, rows=2, height=5.0, height_ratios=(1.5, 1))
    styles, leads = scores.styles(), scores.card.lead_hours
    for (upper, lower), variable in zip(axes.T, variables, strict=True):
        for label in scores.learned or list(scores.ensembles):
            colour, name = styles[label]["color"], legend_label(label)
            values = _curve(scores, label, variable, "rmse")
            upper.plot(leads, values, color=colour, lw=1.8, marker="o", ms=3, label=f"{name}, RMSE of the mean")
            values = _curve(scores, label, variable, "spread")
            upper.plot(leads, values, color=colour, lw=1.5, ls="--", label=f"{name}, spread")
            _line(lower, scores, label, variable, "spread_skill", styles[label], named=False)
        upper.set_ylabel(f"[{pretty_units(lookup(variable).units)}]")
        upper.set_ylim(0, None)
        lower.axhline(1, color=_FAINT, lw=1)
        low, high = lower.get_ylim()
        lower.set_ylim(max(0.0, min(_NEAR[0], low)), min(_BOUND, max(_NEAR[1], high)))
    axes[1, 0].set_ylabel("spread/skill")
    _legend(figure, axes[0, 0], columns=len(scores.learned))
    return figure


def rank_histograms(scores: EnsembleScores, variables: Sequence[str]) -> Figure:
    """Frequency of the rank of the truth among the members, times the number of ranks: 1 where it is uniform."""
    label, leads = scores.headline, scores.shown_leads()
    figure = Figure(figsize=(max(6.0, 2.7 * len(variables)), 0.8 + 1.55 * len(leads)), layout="constrained")
    axes = figure.subplots(len(leads), len(variables), squeeze=False, sharex=True, sharey="row")
    colour = scores.styles()[label]["color"]
    for column, variable in enumerate(variables):
        for row, lead in enumerate(leads):
            panel, found = axes[row, column], scores.ranks(label, variable, lead)
            if found:
                _histogram(panel, found, colour)
            panel.axhline(1, color=_FAINT, lw=1, ls="--")
            if column == 0:
                panel.set_ylabel(f"{lead_key(lead)} h")
        axes[0, column].set_title(lookup(variable).short_name, fontweight="bold")
        axes[-1, column].set_xlabel("rank of the truth")
    figure.supylabel("frequency × number of ranks", fontsize=9)
    return figure


def _histogram(panel: Axes, found: dict[str, Any], colour: str) -> None:
    frequency_R = numbers(found["frequency"])
    ranks = len(frequency_R)
    heights_R = frequency_R * ranks
    low_R, high_R = intervals(found.get("interval"), ranks) * ranks
    panel.bar(range(ranks), heights_R, width=0.86 if ranks < 30 else 1.0, color=colour, alpha=0.55, lw=0)
    if np.isfinite(low_R).any():
        panel.vlines(range(ranks), low_R, high_R, color=colour, lw=1.4)
    panel.set_ylim(0, None)
    panel.set_xticks([0, ranks - 1])
    panel.grid(axis="x", visible=False)


def reliability(scores: EnsembleScores, variables: Sequence[str]) -> Figure:
    """Observed frequency against forecast probability of events beyond percentiles; larger dots: more forecasts."""
    label, leads, percentiles = scores.headline, scores.shown_leads(), scores.percentiles
    figure = Figure(figsize=(max(6.0, 2.7 * len(variables)), 0.8 + 2.5 * len(percentiles)), layout="constrained")
    axes = figure.subplots(len(percentiles), len(variables), squeeze=False, sharex=True, sharey=True)
    colour = scores.styles()[label]["color"]
    for row, percentile in enumerate(percentiles):
        for column, variable in enumerate(variables):
            panel = axes[row, column]
            panel.plot((0, 1), (0, 1), color=_FAINT, lw=1)
            for number, lead in enumerate(leads):
                found = scores.reliability(label, variable, lead, percentile)
                if found:
                    _reliability_curve(panel, found, colour, f"{lead_key(lead)} h", _SHADES[number])
            panel.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), aspect="equal")
            if row == 0:
                panel.set_title(lookup(variable).short_name, fontweight="bold")
            if row == len(percentiles) - 1:
                panel.set_xlabel("forecast probability")
        axes[row, 0].set_ylabel(f"{event(percentile)}\nobserved frequency")
    _legend(figure, axes[0, 0])
    return figure


def _reliability_curve(panel: Axes, found: dict[str, Any], colour: str, name: str, alpha: float) -> None:
    observed_K, share_K = numbers(found["observed"]), numbers(found["forecasts"])
    probability_K = np.linspace(0, 1, len(observed_K))
    low_K, high_K = intervals(found.get("interval"), len(observed_K))
    there = np.isfinite(observed_K)
    panel.fill_between(probability_K[there], low_K[there], high_K[there], color=colour, alpha=0.16 * alpha, lw=0)
    panel.plot(probability_K[there], observed_K[there], color=colour, lw=1.5, alpha=alpha, label=name)
    sizes = 4 + 90 * np.sqrt(share_K[there])
    panel.scatter(probability_K[there], observed_K[there], s=sizes, color=colour, alpha=alpha, lw=0)


def _panels(
    scores: EnsembleScores, variables: Sequence[str], *, rows: int, height: float, **options: Any
) -> tuple[Figure, NDArray[Any]]:
    """Panels of rows × variables against lead time."""
    figure = Figure(figsize=(max(6.0, 2.7 * len(variables)), height), layout="constrained")
    axes: NDArray[Any] = figure.subplots(rows, len(variables), squeeze=False, sharex=True, **options)
    for column, variable in enumerate(variables):
        axes[0, column].set_title(lookup(variable).short_name, fontweight="bold")
        axes[-1, column].set_xlabel("lead time [h]")
        axes[-1, column].set_xticks(day_ticks(scores.card.lead_hours))
    return figure, axes


def _line(
    panel: Axes,
    scores: EnsembleScores,
    label: str,
    variable: str,
    metric: str,
    style: dict[str, Any],
    *,
    named: bool = True,
) -> None:
    """A score against lead time, with a band of its interval where the ensemble is drawn in colour."""
    leads, values = scores.card.lead_hours, _curve(scores, label, variable, metric)
    if "marker" in style:
        bands = np.array([scores.interval(label, variable, lead, metric) for lead in leads])
        panel.fill_between(leads, bands[:, 0], bands[:, 1], color=style["color"], alpha=0.2, lw=0)
    width = 1.8 if "marker" in style else 1.4
    panel.plot(leads, values, lw=width, label=legend_label(label) if named else None, **style)


def _curve(scores: EnsembleScores, label: str, variable: str, metric: str) -> NDArray[np.float64]:
    return np.array([scores.value(label, variable, lead, metric) for lead in scores.card.lead_hours])


def _legend(figure: Figure, panel: Axes, columns: int = 3) -> None:
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, max(1, columns)))
