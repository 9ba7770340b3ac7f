"""Figures of `climax-hpc bench kernels`: speed-up and fraction of the roofline, memory, time against variables."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from climax_hpc.report.style import MODEL_COLOURS, figure_style, write_png

Rows = Sequence[dict[str, Any]]
OURS, TEXTBOOK, UNFUSED = MODEL_COLOURS[0], MODEL_COLOURS[1], MODEL_COLOURS[2]
COLOURS = {"ours": OURS, "textbook": TEXTBOOK, "unfused": UNFUSED, "input": "#8c8c8c"}
COLOURS_OF_TIMES = {**COLOURS, "roofline": "#8c8c8c"}
DEFAULT_VARIABLES = {"32x64": 48, "128x256": 48, "720x1440": 100}
"""Number of variables of front ends whose case name does not state it."""


def draw_plots(rows: Rows, folder: Path) -> list[Path]:
    """Write the figures for which the rows have data; returns their paths."""
    drawn = []
    figures = {"speed": speed_figure, "memory": memory_figure, "variables": variables_figure}
    for name, draw in figures.items():
        with figure_style(for_page=False):
            figure = draw(rows)
            if figure is not None:
                drawn.append(folder / f"{name}.png")
                write_png(figure, drawn[-1])
    return drawn


def select(rows: Rows, metric: str, against: str) -> dict[str, dict[str, Any]]:
    """Case -> its row with this metric and baseline."""
    return {row["case"]: row for row in rows if (row["metric"], row["against"]) == (metric, against)}


def label(case: str) -> str:
    """Label of a case: `front_end_128x256_v5` becomes "front end 128×256, 5 variables"."""
    words = case.replace("_", " ").replace(" bf16", ", bf16")
    for pattern, word in ((r"(\d)x(\d)", r"\1×\2"), (r" v(\d+)", r", \1 variables"), (r" b(\d+)$", r", batch \1")):
        words = re.sub(pattern, word, words)
    return words


def speed_figure(rows: Rows) -> Figure | None:
    """Speed-up over the textbook and the unfused form, and fraction of the roofline, by case."""
    ratios = {against: select(rows, "time", against) for against in ("textbook", "unfused")}
    shares = {case: row["ratio"] for case, row in select(rows, "time", "roofline").items()}
    cases = [case for case in dict.fromkeys(row["case"] for row in rows) if case in {**ratios["textbook"], **shares}]
    if not cases:
        return None
    figure = Figure(figsize=(9, 1.1 + 0.42 * len(cases)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    for shift, (against, found) in zip((-0.2, 0.2), ratios.items(), strict=True):
        places = [place for place, case in enumerate(cases) if case in found]
        values = [found[cases[place]]["ratio"] for place in places]
        bars = left.barh([place + shift for place in places], values, 0.38, color=COLOURS[against], label=against)
        left.bar_label(bars, [f"{value:.3g}×" for value in values], padding=3, fontsize=8)
    _plain_log_axis(left)
    left.grid(axis="y", visible=False)
    right.grid(axis="y", visible=False)
    left.axvline(1, color="#888888", linewidth=0.8)
    left.set_xlim(left=0.7, right=left.get_xlim()[1] * 2)
    left.set_yticks(range(len(cases)), [label(case) for case in cases])
    left.invert_yaxis()
    left.set_title("speed-up over")
    left.legend(loc="lower right")
    places = [place for place, case in enumerate(cases) if case in shares]
    bars = right.barh(places, [100 * shares[cases[place]] for place in places], 0.5, color=OURS)
    right.bar_label(bars, fmt="%.0f %%", padding=3, fontsize=8)
    right.set_xlim(0, 118)
    right.set_title("fraction of the roofline")
    _name_device(figure, rows)
    return figure


def memory_figure(rows: Rows) -> Figure | None:
    """Bytes saved for backward and peak bytes of every form, and size of the input."""
    metrics = {"saved_bytes": "saved for backward [MiB]", "peak_bytes": "peak above the start [MiB]"}
    cases = [case for case in select(rows, "saved_bytes", "input") if not case.startswith("loss")]
    if not cases:
        return None
    figure = Figure(figsize=(9, 1.2 + 0.75 * len(cases)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (metric, title) in zip(panels, metrics.items(), strict=True):
        for shift, form in zip((-0.3, -0.1, 0.1, 0.3), COLOURS, strict=True):
            found = select(rows, metric, "input" if form == "ours" else form)
            places = [place for place, case in enumerate(cases) if case in found]
            key = "ours" if form == "ours" else "baseline"
            sizes = [found[cases[place]][key] / 2**20 for place in places]
            bars = axes.barh([place + shift for place in places], sizes, 0.19, color=COLOURS[form], label=form)
            axes.bar_label(
                bars, [f"{size:.0f}" if size >= 100 else f"{size:.3g}" for size in sizes], padding=3, fontsize=7
            )
        _plain_log_axis(axes)
        axes.grid(axis="y", visible=False)
        axes.set_xlim(right=axes.get_xlim()[1] * 2.5)
        axes.set_title(title)
    panels[0].set_yticks(range(len(cases)), [label(case) for case in cases])
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    _name_device(figure, rows)
    return figure


def variables_figure(rows: Rows) -> Figure | None:
    """Time of the front end against the number of variables, one panel per grid."""
    times: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for row in rows:
        match = re.fullmatch(r"front_end_(\d+x\d+)(?:_v(\d+))?(?:_b(\d+))?", row["case"])
        if not match or row["metric"] != "time":
            continue
        grid, batch = match[1], match[3] or "2"
        V = int(match[2]) if match[2] else DEFAULT_VARIABLES[grid]
        forms = times.setdefault((grid, batch), {"ours": {}, "textbook": {}, "unfused": {}, "roofline": {}})
        forms["ours"][V] = row["ours"]
        forms[row["against"]][V] = row["baseline"]
    panels = {key: forms for key, forms in times.items() if len(forms["ours"]) > 1}
    if not panels:
        return None
    figure = Figure(figsize=(1 + 4 * len(panels), 3.6), layout="constrained")
    for axes, ((grid, batch), forms) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        _draw_times(axes, forms)
        axes.set_title(f"{grid.replace('x', '×')}, batch {batch}")
    _name_device(figure, rows)
    return figure


def _draw_times(axes: Axes, forms: dict[str, dict[int, float]]) -> None:
    for form, found in forms.items():
        points = sorted(found.items())
        if points:
            style = ":" if form == "roofline" else "o-"
            axes.plot(*zip(*points, strict=True), style, color=COLOURS_OF_TIMES[form], markersize=4, label=form)
    axes.set_yscale("log")
    axes.set_xlabel("variables")
    axes.set_ylabel("forward and backward [s]")
    axes.legend()


def _plain_log_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _name_device(figure: Figure, rows: Rows) -> None:
    names = dict.fromkeys(row["device"] for row in rows if "device" in row)
    figure.suptitle(", ".join(names), fontsize=8, color="#888888", x=0.99, ha="right")
