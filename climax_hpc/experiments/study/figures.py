"""Figures of the study: RMSE by lead time relative to climatology, skill by category with all seeds, bars."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from climax_hpc.experiments.study.networks import CLIMAX, LINEAR, RESNET, UNET, VIT
from climax_hpc.experiments.study.scores import Scores
from climax_hpc.experiments.study.sizes import REFERENCE
from climax_hpc.experiments.study.text import lead
from climax_hpc.fields.variables import lookup
from climax_hpc.report.style import baseline_styles, model_colours

_CLIMATOLOGY = "climatology"
_NETWORKS = [network.label for network in (CLIMAX, VIT, RESNET, UNET, LINEAR)]
_GREYS = ("#4d5963", "#7d8892", "#a9b2ba", "#cdd4da")
_HIGHEST_RATIO = 1.2  # persistence reaches 1.4, which would compress the other curves


def styles(labels: Sequence[str]) -> dict[str, tuple[str, str, float]]:
    """Colour, dashes and opacity by label: a colour per network, dashed and paler from scratch; others are grey."""
    names = {label: label.partition(" (")[0] for label in labels}
    networks = list(dict.fromkeys(name for name in names.values() if name in _NETWORKS))
    colours = model_colours(networks)
    greys = iter(_GREYS * len(labels))
    found = {}
    for label, name in names.items():
        scratch = "from scratch" in label
        colour = colours[name] if name in colours else next(greys)
        found[label] = (colour, "--" if scratch else "-", 0.55 if scratch else 1.0)
    return found


def skill_by_lead(scores: Scores, variables: Sequence[str]) -> Figure:
    """RMSE relative to that of climatology, one panel per variable; bands are intervals."""
    figure = Figure(figsize=(max(6.0, 2.9 * len(variables)), 3.6), layout="constrained")
    panels = figure.subplots(1, len(variables), squeeze=False, sharey=True)[0]
    for panel, variable in zip(panels, variables, strict=True):
        _lead_panel(panel, scores, variable)
    panels[0].set_ylabel("RMSE / climatology's")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _lead_panel(panel: Axes, scores: Scores, variable: str) -> None:
    leads = scores.lead_hours
    unit = np.array([scores.rmse(_CLIMATOLOGY, variable, h) for h in leads])
    days = [h / 24 for h in leads]
    for label, style in baseline_styles(scores.cards[0].baselines).items():
        values = np.array([scores.rmse(label, variable, h) for h in leads])
        panel.plot(days, values / unit, lw=1.2, label=label, **style)
    for label, (colour, dashes, _) in styles(scores.models).items():
        bands = np.array([scores.interval(label, variable, h) for h in leads])
        values = np.array([scores.rmse(label, variable, h) for h in leads])
        panel.fill_between(days, bands[:, 0] / unit, bands[:, 1] / unit, color=colour, alpha=0.15, lw=0)
        panel.plot(days, values / unit, color=colour, ls=dashes, lw=1.6, marker="o", ms=3, label=label)
    panel.set(title=lookup(variable).short_name, xlabel="lead time [d]", ylim=(0, _HIGHEST_RATIO))


def by_category(
    series: Mapping[str, Mapping[str, tuple[Scores, str]]],
    *,
    variables: Sequence[str],
    leads: Sequence[float],
    xlabel: str,
) -> Figure:
    """RMSE relative to that of REFERENCE, mean over the variables: one panel per lead time, a point per seed.

    Args:
        series: name of a line -> category on the x axis -> scores, and the label in them.
        variables, leads: averaged over the variables; one panel per lead time.
        xlabel: name of the categories.
    """
    figure = Figure(figsize=(max(5.0, 2.9 * len(leads)), 3.2), layout="constrained")
    panels = figure.subplots(1, len(leads), squeeze=False)[0]
    drawn = styles(list(series))
    for panel, hours in zip(panels, leads, strict=True):
        for name, points in series.items():
            colour, dashes, _ = drawn[name]
            seeds = {x: _per_seed(*point, variables, hours) for x, point in points.items()}
            means = [float(np.mean(values)) for values in seeds.values()]
            panel.plot(list(seeds), means, color=colour, ls=dashes, lw=1.6, label=name)
            for x, values in seeds.items():
                panel.plot([x] * len(values), values, color=colour, marker="o", ms=3, ls="")
        panel.axhline(1.0, color="#8c8c8c", ls="--", lw=1.0)
        panel.set(title=lead(hours), xlabel=xlabel)
    panels[0].set_ylabel(f"RMSE / that of {REFERENCE}")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _per_seed(scores: Scores, label: str, variables: Sequence[str], hours: float) -> list[float]:
    return [Scores(cards=(card,)).ratio(label, REFERENCE, variables, hours) for card in scores.cards]


def choices_by_value(
    series: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], *, xlabel: str, ylabel: str
) -> Figure:
    """A panel per name of `series`, a line per network: (value, score) of every candidate."""
    figure = Figure(figsize=(max(6.0, 3.6 * len(series)), 3.2), layout="constrained")
    panels = figure.subplots(1, len(series), squeeze=False, sharey=True)[0]
    colours = model_colours(list(dict.fromkeys(label for lines in series.values() for label in lines)))
    for panel, (name, lines) in zip(panels, series.items(), strict=True):
        for label, points in lines.items():
            panel.plot(*zip(*points, strict=True), color=colours[label], marker="o", ms=3, lw=1.6, label=label)
        panel.set(title=name, xlabel=xlabel, xscale="log")
    panels[0].set_ylabel(ylabel)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def changes(labels: Sequence[str], values: Mapping[str, Sequence[float]], *, xlabel: str) -> Figure:
    """A row per label, a point per name of `values`, which are changes; 0 is marked."""
    figure = Figure(figsize=(8.0, 1.2 + 0.3 * len(labels)), layout="constrained")
    panel = figure.subplots()
    colours = model_colours(list(values))
    for name, row in values.items():
        panel.plot(row, range(len(labels)), color=colours[name], marker="o", ms=4, ls="", label=name)
    panel.axvline(0.0, color="#8c8c8c", ls="--", lw=1.0)
    panel.set(xlabel=xlabel, yticks=range(len(labels)), yticklabels=labels)
    panel.invert_yaxis()
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def bars(
    labels: Sequence[str],
    variables: Sequence[str],
    score: Callable[[str, str], tuple[float, float, float]],
    *,
    ylabel: str,
    sharey: bool = False,
) -> Figure:
    """One panel per variable, one bar with interval per label; `score(label, variable)` is (value, low, high)."""
    figure = Figure(figsize=(max(6.0, 2.2 * len(variables)), 3.4), layout="constrained")
    panels = figure.subplots(1, len(variables), squeeze=False, sharey=sharey)[0]
    drawn = styles(labels)
    for panel, variable in zip(panels, variables, strict=True):
        for place, label in enumerate(labels):
            value, low, high = score(label, variable)
            colour, _, opacity = drawn[label]
            panel.bar(place, value, color=colour, alpha=opacity, label=label)
            panel.vlines(place, low, high, color="#1d2733", lw=1.2)
        panel.set(title=lookup(variable).short_name, xticks=[])
    panels[0].set_ylabel(ylabel)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
