"""Figure of the study's ensembles: CRPS relative to that of a reference, paired, and spread/skill, by lead time."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from climax_hpc.experiments.study.ensemble_scores import SPREAD_SKILL, ScoresOfEnsembles
from climax_hpc.fields.variables import lookup
from climax_hpc.report.style import model_colours


def crps_and_spread(
    scores: ScoresOfEnsembles,
    variables: Sequence[str],
    leads: Sequence[int],
    *,
    labels: Sequence[str],
    reference: str,
    range_of_spread: tuple[float, float],
) -> Figure:
    """A column per variable: fair CRPS against the reference's above, spread/skill below; bands are intervals.

    Args:
        scores, variables, leads: what is drawn.
        labels: the ensembles that are drawn.
        reference: label of the ensemble that the CRPS is compared with, on the same forecasts.
        range_of_spread: the range of spread/skill that is marked.
    """
    figure = Figure(figsize=(max(6.0, 2.9 * len(variables)), 5.6), layout="constrained")
    upper, lower = figure.subplots(2, len(variables), squeeze=False, sharey="row", sharex=True)
    colours = model_colours([*labels, reference])
    for panel, below, variable in zip(upper, lower, variables, strict=True):
        _crps_panel(panel, scores, variable, leads, labels, colours, reference)
        _spread_panel(below, scores, variable, leads, [*labels, reference], colours, range_of_spread)
        panel.set(title=lookup(variable).short_name)
        below.set(xlabel="lead time [d]", ylim=(0, 1.5))
    upper[0].set_ylabel(f"fair CRPS against that of\n{reference} [%]")
    lower[0].set_ylabel("spread / skill")
    figure.legend(*lower[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _crps_panel(
    panel: Axes,
    scores: ScoresOfEnsembles,
    variable: str,
    leads: Sequence[int],
    labels: Sequence[str],
    colours: dict[str, str],
    reference: str,
) -> None:
    days, of_reference = [h / 24 for h in leads], np.array([scores.value(reference, variable, h) for h in leads])
    for label in labels:
        pairs = [scores.paired(label, reference, variable, h) for h in leads]
        ends = 100 * np.array([one.interval for one in pairs]) / of_reference[:, None]
        panel.fill_between(days, ends[:, 0], ends[:, 1], color=colours[label], alpha=0.15, lw=0)
        panel.plot(days, [100 * one.relative for one in pairs], color=colours[label], lw=1.6, marker="o", ms=3)
    panel.axhline(0.0, color=colours[reference], ls="--", lw=1.2)


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
        panel.plot(days, values, color=colours[label], lw=1.6, marker="o", ms=3, label=label)
