"""Figure of the study's ensembles: CRPS relative to the climatological ensemble's, and spread/skill, by lead time."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from climax_hpc.experiments.study.ensemble_scores import SPREAD_SKILL, ScoresOfEnsembles
from climax_hpc.fields.variables import lookup
from climax_hpc.report.style import model_colours

_HIGHEST_RATIO = 1.6


def crps_and_spread(
    scores: ScoresOfEnsembles,
    variables: Sequence[str],
    leads: Sequence[int],
    *,
    deterministic: str,
    unit: str,
    range_of_spread: tuple[float, float],
) -> Figure:
    """A column per variable: fair CRPS above, spread/skill below; bands are intervals.

    Args:
        scores, variables, leads: what is drawn.
        deterministic: label of the forecast whose absolute error is drawn beside the CRPS.
        unit: label of the ensemble whose CRPS is 1.
        range_of_spread: the range of spread/skill that is marked.
    """
    figure = Figure(figsize=(max(6.0, 2.9 * len(variables)), 5.6), layout="constrained")
    upper, lower = figure.subplots(2, len(variables), squeeze=False, sharey="row", sharex=True)
    shown = [label for label in scores.labels if label != unit]
    colours = model_colours([*shown, f"{deterministic} (error)"])
    for panel, below, variable in zip(upper, lower, variables, strict=True):
        _crps_panel(panel, scores, variable, leads, shown, colours, deterministic, unit)
        _spread_panel(below, scores, variable, leads, shown, colours, range_of_spread)
        panel.set(title=lookup(variable).short_name, ylim=(0, _HIGHEST_RATIO))
        below.set(xlabel="lead time [d]", ylim=(0, 1.5))
    upper[0].set_ylabel("fair CRPS / climatological ensemble's")
    lower[0].set_ylabel("spread / skill")
    figure.legend(*upper[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _crps_panel(
    panel: Axes,
    scores: ScoresOfEnsembles,
    variable: str,
    leads: Sequence[int],
    labels: Sequence[str],
    colours: dict[str, str],
    deterministic: str,
    unit: str,
) -> None:
    days, of_unit = [h / 24 for h in leads], np.array([scores.value(unit, variable, h) for h in leads])
    for label in labels:
        ends = np.array([scores.interval(label, variable, h) for h in leads]) / of_unit[:, None]
        values = np.array([scores.value(label, variable, h) for h in leads]) / of_unit
        panel.fill_between(days, ends[:, 0], ends[:, 1], color=colours[label], alpha=0.15, lw=0)
        panel.plot(days, values, color=colours[label], lw=1.6, marker="o", ms=3, label=label)
    errors, name = np.array([scores.error(deterministic, variable, h) for h in leads]), f"{deterministic} (error)"
    panel.plot(days, errors / of_unit, color=colours[name], ls="--", lw=1.6, marker="o", ms=3, label=name)
    panel.axhline(1.0, color="#8c8c8c", ls="--", lw=1.0, label=unit)


def _spread_panel(
    panel: Axes,
    scores: ScoresOfEnsembles,
    variable: str,
    leads: Sequence[int],
    labels: Sequence[str],
    colours: dict[str, str],
    marked: tuple[float, float],
) -> None:
    days = [h / 24 for h in leads]
    panel.axhspan(*marked, color="#8c8c8c", alpha=0.12, lw=0)
    panel.axhline(1.0, color="#8c8c8c", ls="--", lw=1.0)
    for label in labels:
        ends = np.array([scores.interval(label, variable, h, SPREAD_SKILL) for h in leads])
        values = [scores.value(label, variable, h, SPREAD_SKILL) for h in leads]
        panel.fill_between(days, ends[:, 0], ends[:, 1], color=colours[label], alpha=0.15, lw=0)
        panel.plot(days, values, color=colours[label], lw=1.6, marker="o", ms=3)
