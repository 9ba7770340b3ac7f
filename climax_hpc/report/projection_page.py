"""The page of an evaluation of climate projections: NRMSE, years of the global mean, maps of the mean."""

from collections.abc import Sequence
from html import escape

from matplotlib.figure import Figure

from climax_hpc.evaluation.contest import TRUTH
from climax_hpc.evaluation.scorecard import format_score, pretty_units
from climax_hpc.report import figures
from climax_hpc.report.document import (
    anomaly_note,
    document,
    figure,
    key,
    maps_section,
    origin_section,
    section,
    table,
    training_section,
)
from climax_hpc.report.projections import SCORES, Projections
from climax_hpc.report.published import beside_projections
from climax_hpc.report.runs import RunHistory
from climax_hpc.report.style import BASELINE_STYLES, as_svg, figure_style, model_colours
from climax_hpc.report.tables import group_row, with_interval
from climax_hpc.variables import lookup

_KEY = key(
    "total",
    "baseline",
    "Small figures: intervals. NRMSE as ClimateBench defines it: spatial, of the mean map; global, of the global means "
    "of the years; total = spatial + 5 · global. An interval may lie above its score: years drawn twice make a "
    "mean map noisier.",
)


def projection_page(title: str, found: Projections, histories: Sequence[RunHistory]) -> str:
    """The page as HTML."""
    caption = f"{found.models[0]}: mean over {_years(found)}. Error is projection minus truth."
    sections = (
        section("Headline: NRMSE", _verdict(found), anomaly_note(found.content), _scores(found), _KEY),
        section("Total NRMSE", _totals(found)),
        section("Global mean of every year", _series(found)),
        maps_section("The mean map, the truth, and the error", caption, found.maps, found.variables, "projection"),
        section("Beside the ClimaX paper", beside_projections(found)),
        training_section(histories),
        origin_section(found.content, histories),
    )
    return document(title, _subtitle(found), sections)


def projection_figure(found: Projections) -> Figure:
    """Total NRMSE of every variable with intervals."""
    return figures.interval_panels(
        {
            lookup(variable).short_name: [
                figures.Scored(
                    label=label,
                    value=found.value(label, variable, "total"),
                    interval=found.interval(label, variable, "total"),
                    is_model=label in found.models,
                )
                for label in found.labels
            ]
            for variable in found.variables
        },
        "total NRMSE",
    )


def _years(found: Projections) -> str:
    return f"{found.content['years'][0]} … {found.content['years'][-1]}"


def _subtitle(found: Projections) -> str:
    return (
        f"Scenario {found.content['source']}, {_years(found)}; baselines fitted on "
        f"{', '.join(found.content['training_sources'])}"
    )


def _verdict(found: Projections) -> str:
    model = found.models[0]
    won = [v for v in found.variables if found.value(model, v, "total") < found.best_baseline(v)]
    lost = [lookup(v).short_name for v in found.variables if v not in won]
    text = (
        f"<strong>{escape(model)}</strong> has a lower total NRMSE than every baseline for {len(won)} of "
        f"{len(found.variables)} variables."
    )
    if lost:
        text += f" It does not beat them for {escape(', '.join(lost))}."
    if found.reference and found.reference != model:
        clear = [lookup(v).short_name for v in found.variables if found.is_significant(model, v)]
        text += (
            f" Its difference from {escape(found.reference)} leaves 0 out for {escape(', '.join(clear)) or 'none'}: "
            "the chance of the years, not that of the seed."
        )
    return f"<p>{text}</p>"


def _scores(found: Projections) -> str:
    bodies = []
    for variable in found.variables:
        rows = [group_row(variable, 2 + len(SCORES))]
        for label in found.labels:
            kind = "model" if label in found.models else "baseline"
            cells = "".join(_cell(found, label, variable, score) for score in SCORES)
            rmse = found.content["rmse"][label][variable]
            rows.append(
                f'<tr class="{kind}"><th scope="row">{escape(label)}</th>{cells}<td>{format_score(rmse)}</td></tr>'
            )
        bodies.append("\n".join(rows))
    return table(["", *SCORES, "RMSE of the mean map"], bodies)


def _cell(found: Projections, label: str, variable: str, score: str) -> str:
    value = found.value(label, variable, score)
    shown = with_interval(value, found.interval(label, variable, score), best=value == found.best(variable, score))
    if score != "total" or label not in found.models:
        return f"<td>{shown}</td>"
    return (
        f'<td class="win">{shown}</td>' if value < found.best_baseline(variable) else f'<td class="loss">▲ {shown}</td>'
    )


def _totals(found: Projections) -> str:
    with figure_style(for_page=True):
        svg = as_svg(projection_figure(found), "totals")
    if found.content.get("intervals") is None:
        return figure(svg, "Lower is better.")
    settings = found.content["settings"]
    caption = (
        f"Lower is better. Bars: {100 * settings['confidence']:g} % intervals of a block bootstrap over the years "
        f"({settings['resamples']} draws, blocks of {found.content['block_years']} years)."
    )
    return figure(svg, caption)


def _series(found: Projections) -> str:
    with figure_style(for_page=True):
        svg = as_svg(_series_figure(found), "series")
    return figure(svg, "cos-latitude weighted means; the truth is the mean over the ensemble members.")


def _series_figure(found: Projections) -> Figure:
    names, years = found.variables, found.content["years"]
    drawn = Figure(figsize=(max(6.0, 2.9 * len(names)), 2.9), layout="constrained")
    panels = drawn.subplots(1, len(names), squeeze=False)[0]
    for o, (panel, name) in enumerate(zip(panels, names, strict=True)):
        panel.plot(years, found.series_NO[TRUTH][:, o], color="#555555", lw=2.4, label="truth")
        for (colour, dash), label in zip(BASELINE_STYLES, found.content["baselines"], strict=False):
            panel.plot(
                years, found.series_NO[label][:, o], color=colour, ls=dash, lw=1.3, label=figures.legend_label(label)
            )
        for label, colour in model_colours(found.models).items():
            panel.plot(years, found.series_NO[label][:, o], color=colour, lw=1.6, label=figures.legend_label(label))
        panel.set_title(lookup(name).short_name, fontweight="bold")
        panel.set_ylabel(pretty_units(lookup(name).units))
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return drawn
