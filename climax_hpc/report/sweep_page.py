"""The report of a sweep or pipeline: state of every member, scores against the best baseline, skill, losses."""

from collections.abc import Callable, Sequence
from functools import partial
from html import escape

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from climax_hpc.config.inference import ReportConfig
from climax_hpc.errors import UserError
from climax_hpc.evaluation.metrics import RMSE
from climax_hpc.fields.variables import lookup
from climax_hpc.report import figures
from climax_hpc.report.html import document, figure, section, table
from climax_hpc.report.sections import training_section
from climax_hpc.report.style import as_svg, figure_style, model_colours
from climax_hpc.report.sweep_results import MemberResults, SweepResults
from climax_hpc.report.training_curves import RunHistory, load_histories
from climax_hpc.utils.formatting import pretty_units

_MOST_CURVES = 12
_MOST_PANELS = 6


def sweep_report(config: ReportConfig) -> tuple[str, Callable[[], Figure]]:
    """The page of the sweep that a config names, and a function that draws its summary figure."""
    sweep = SweepResults.load(config.evaluation)
    title = config.title or "Sweep results"
    return sweep_page(title, sweep, load_histories(config.runs)), partial(sweep_summary_figure, sweep)


def sweep_page(title: str, sweep: SweepResults, histories: Sequence[RunHistory]) -> str:
    """The page as HTML; loss curves are those of `histories`, else of the first members."""
    own = [member.history for member in sweep.members if member.history]
    sections = (
        section("Members", _summary(sweep), _table(sweep)),
        section("Comparison with the best baseline", _against_baselines(sweep)),
        section("Skill against lead time", _skill(sweep)),
        training_section(histories or own[:_MOST_CURVES]),
    )
    return document(title, f"{len(sweep.members)} members in {sweep.folder}", sections)


def sweep_summary_figure(sweep: SweepResults) -> Figure:
    """RMSE of every group of members relative to its best baseline: mean and range over the seeds.

    Raises:
        UserError: no member has been evaluated.
    """
    if not sweep.evaluated:
        raise UserError(
            f"figure: no member in {sweep.folder} has been evaluated, so there is nothing to draw; leave figure out"
        )
    groups: dict[str, list[float]] = {}
    for member in sweep.evaluated:
        pairs = member.rmse_by_lead
        mine, baseline = pairs[max(pairs)]
        groups.setdefault(sweep.group(member), []).append(mine / baseline)
    scored = [
        figures.ScoreRow(label=label, value=float(np.mean(ratios)), interval=[min(ratios), max(ratios)], is_model=True)
        for label, ratios in groups.items()
    ]
    return figures.interval_panels({"": scored}, "RMSE / best baseline's")


def _summary(sweep: SweepResults) -> str:
    states: dict[str, int] = {}
    for member in sweep.members:
        states[member.row["state"]] = states.get(member.row["state"], 0) + 1
    better = [m for m in sweep.evaluated if all(mine < base for mine, base in m.rmse_by_lead.values())]
    text = f"{', '.join(f'{count} {state}' for state, count in states.items())}; {len(sweep.evaluated)} evaluated"
    if sweep.evaluated:
        text += f", {len(better)} of them with a lower {RMSE.title} than every baseline at every lead time"
    return f"<p>{escape(text)}.</p>"


def _table(sweep: SweepResults) -> str:
    kept = [x for x in sweep.header if x != "run_folder" and any(m.row[x] for m in sweep.members)]
    rows = []
    for member in sweep.members:
        kind = ' class="loss"' if member.row["state"] == "failed" else ""
        cells = "".join(f"<td{kind}>{escape(member.row[name])}</td>" for name in kept)
        rows.append(f'<tr><th scope="row">{escape(member.name)}</th>{cells}</tr>')
    return table(["member", *kept], ["\n".join(rows)])


def _against_baselines(sweep: SweepResults) -> str:
    if not sweep.evaluated:
        return "<p>No member has been evaluated.</p>"
    with figure_style(for_page=True):
        svg = as_svg(sweep_summary_figure(sweep), "against")
    caption = (
        "First variable of each member at its longest lead time; below 1 is better than every baseline. "
        "Dot: mean over the seeds. Bar: range of the seeds, which is not a confidence interval."
    )
    return figure(svg, caption)


def _skill(sweep: SweepResults) -> str:
    forecasts = [member for member in sweep.evaluated if max(member.rmse_by_lead) > 0]
    if not forecasts:
        return ""
    with figure_style(for_page=True):
        svg = as_svg(_skill_figure(sweep, forecasts), "skill")
    caption = f"{RMSE.title} by lead time, mean over the seeds. Grey: the best baseline."
    return figure(svg, caption)


def _skill_figure(sweep: SweepResults, forecasts: Sequence[MemberResults]) -> Figure:
    names = list(dict.fromkeys(member.variable for member in forecasts))[:_MOST_PANELS]
    series = list(dict.fromkeys(_series(sweep, member) for member in forecasts))
    colours = model_colours(series)
    drawn = Figure(figsize=(max(6.0, 2.9 * len(names)), 3.2), layout="constrained")
    panels = drawn.subplots(1, len(names), squeeze=False)[0]
    for panel, name in zip(panels, names, strict=True):
        own = [member for member in forecasts if member.variable == name]
        for label in series:
            _curve(panel, [m.rmse_by_lead for m in own if _series(sweep, m) == label], label, colours[label])
        baseline = {lead: base for member in own for lead, (_, base) in member.rmse_by_lead.items()}
        panel.plot(*zip(*sorted(baseline.items()), strict=True), "s--", color="#8c8c8c", ms=3, label="best baseline")
        panel.set_title(lookup(name).short_name, fontweight="bold")
        panel.set(xlabel="lead time [h]", ylabel=f"RMSE [{pretty_units(lookup(name).units)}]")
        panel.set_ylim(0, 1.08 * np.nanmax([pair for member in own for pair in member.rmse_by_lead.values()]))
    handles = {label: line for panel in panels for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    drawn.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
    return drawn


def _series(sweep: SweepResults, member: MemberResults) -> str:
    return sweep.group(member, without=("seed", "variable", "lead_hours"))


def _curve(panel: Axes, found: Sequence[dict[float, tuple[float, float]]], label: str, colour: str) -> None:
    leads = sorted({lead for one in found for lead in one})
    means = [np.mean([one[lead][0] for one in found if lead in one]) for lead in leads]
    if leads:
        panel.plot(leads, means, "o-", color=colour, ms=4, lw=1.6, label=figures.legend_label(label))
