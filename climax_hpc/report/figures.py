"""Figures that several pages share: loss curves, scores with their intervals.

The others are where they are used: `forecast_figures.py`, `maps.py`, `projection_page.py`, `sweep_page.py`; colours and
line styles are in `style.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from climax_hpc.report.style import BASELINE_COLOUR, model_colours
from climax_hpc.report.training_curves import RunHistory


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


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """A row of `interval_panels`: a score and its interval."""

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


def day_ticks(lead_hours: Sequence[float]) -> NDArray[np.float64]:
    """About five ticks of an axis of lead times [h], at whole days."""
    longest = max(lead_hours)
    step = 24.0 * max(1, round(longest / 24 / 5))
    return np.arange(0.0, longest + 1, step)


def legend_label(label: str) -> str:
    """A label that the legend shows: a leading underscore would hide it."""
    return f" {label}" if label.startswith("_") else label
