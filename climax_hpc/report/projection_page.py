"""The report of climate projections: NRMSE, the global mean of every year, maps of the mean."""

from collections.abc import Callable, Sequence
from functools import partial
from html import escape

from matplotlib.figure import Figure

from climax_hpc.config.inference import ReportConfig
from climax_hpc.evaluation.nrmse import PROJECTION_METRICS, TOTAL
from climax_hpc.evaluation.stored import TRUTH
from climax_hpc.fields.variables import lookup
from climax_hpc.report import figures
from climax_hpc.report.html import document, figure, section, table
from climax_hpc.report.paper_scores import compare_projections
from climax_hpc.report.projection_results import Projections
from climax_hpc.report.sections import anomaly_note, maps_section, origin_section, table_key, training_section
from climax_hpc.report.style import as_svg, baseline_styles, figure_style, model_colours
from climax_hpc.report.tables import (
    group_row,
    interval_caption,
    model_cell,
    score_row,
    sentence_by_variable,
    short_names,
    span,
    with_interval,
)
from climax_hpc.report.training_curves import RunHistory, load_histories
from climax_hpc.utils.formatting import format_score, pretty_units

_KEY = table_key(
    TOTAL.title,
    "baseline",
    "Small figures: intervals. NRMSE as ClimateBench defines it: "
    + "; ".join(f"{metric.title}, {metric.description}" for metric in PROJECTION_METRICS.values())
    + ". An interval may lie above its score, because years drawn twice make a mean map noisier.",
)


def projection_report(config: ReportConfig) -> tuple[str, Callable[[], Figure]]:
    """The page of the climate projection that a config names, and a function that draws its summary figure."""
    found = Projections.load(config.evaluation)
    title = config.title or "Climate projection scorecard"
    return projection_page(title, found, load_histories(config.runs)), partial(projection_figure, found)


def projection_page(title: str, found: Projections, histories: Sequence[RunHistory]) -> str:
    """The page as HTML."""
    caption = f"{found.models[0]}: mean over {_years(found)}. The error is projection minus truth."
    sections = (
        section("NRMSE on the test scenario", _summary(found), anomaly_note(found.content), _scores(found), _KEY),
        section("Total NRMSE", _totals(found)),
        section("Global means by year", _series(found)),
        maps_section("Mean over the years", caption, found.maps, found.variables, "projection"),
        section("Comparison with the ClimaX paper", compare_projections(found)),
        training_section(histories),
        origin_section(found.content, histories),
    )
    return document(title, _subtitle(found), sections)


def projection_figure(found: Projections) -> Figure:
    """Total NRMSE of every variable with intervals."""
    return figures.interval_panels(
        {
            lookup(variable).short_name: [
                figures.ScoreRow(
                    label=label,
                    value=found.value(label, variable, TOTAL.name),
                    interval=found.interval(label, variable, TOTAL.name),
                    is_model=label in found.models,
                )
                for label in found.labels
            ]
            for variable in found.variables
        },
        "total NRMSE",
    )


def _years(found: Projections) -> str:
    return span(found.content["years"][0], found.content["years"][-1])


def _subtitle(found: Projections) -> str:
    return (
        f"Scenario {found.content['source']}, {_years(found)}; baselines fitted on "
        f"{', '.join(found.content['training_sources'])}"
    )


def _summary(found: Projections) -> str:
    model, difference = found.models[0], ""
    if found.reference and found.reference != model:
        clear = [v for v in found.variables if found.is_significant(model, v)]
        difference = (
            f" The interval of its difference from {escape(found.reference)} excludes 0 for "
            f"{escape(short_names(clear))}; it covers the sampling of the years, not the random seed."
        )
    lost = [v for v in found.variables if found.unbeaten_baselines(model, v)]
    return sentence_by_variable(
        model, "total NRMSE", "baseline", scored=found.variables, lost=lost, difference=difference
    )


def _scores(found: Projections) -> str:
    bodies = []
    for variable in found.variables:
        rows = [group_row(variable, 2 + len(PROJECTION_METRICS))]
        for label in found.labels:
            cells = "".join(_cell(found, label, variable, score) for score in PROJECTION_METRICS)
            cells += f"<td>{format_score(found.content['rmse'][label][variable])}</td>"
            rows.append(score_row(label, cells, is_model=label in found.models))
        bodies.append("\n".join(rows))
    return table(["", *(metric.title for metric in PROJECTION_METRICS.values()), "RMSE of the mean map"], bodies)


def _cell(found: Projections, label: str, variable: str, score: str) -> str:
    value = found.value(label, variable, score)
    shown = with_interval(value, found.interval(label, variable, score), best=value == found.best(variable, score))
    if score != TOTAL.name or label not in found.models:
        return f"<td>{shown}</td>"
    return model_cell(shown, found.unbeaten_baselines(label, variable))


def _totals(found: Projections) -> str:
    with figure_style(for_page=True):
        svg = as_svg(projection_figure(found), "totals")
    blocks = f", blocks of {found.content.get('block_years')} years"
    return figure(svg, interval_caption(found.content, "years", blocks))


def _series(found: Projections) -> str:
    with figure_style(for_page=True):
        svg = as_svg(_series_figure(found), "series")
    return figure(svg, "Means weighted by the cosine of latitude. The truth is the mean over the ensemble members.")


def _series_figure(found: Projections) -> Figure:
    names, years = found.variables, found.content["years"]
    drawn = Figure(figsize=(max(6.0, 2.9 * len(names)), 2.9), layout="constrained")
    panels = drawn.subplots(1, len(names), squeeze=False)[0]
    for o, (panel, name) in enumerate(zip(panels, names, strict=True)):
        panel.plot(years, found.series_NO[TRUTH][:, o], color="#555555", lw=2.4, label="truth")
        for label, style in baseline_styles(list(found.content["baselines"])).items():
            panel.plot(years, found.series_NO[label][:, o], lw=1.3, label=figures.legend_label(label), **style)
        for label, colour in model_colours(found.models).items():
            panel.plot(years, found.series_NO[label][:, o], color=colour, lw=1.6, label=figures.legend_label(label))
        panel.set_title(lookup(name).short_name, fontweight="bold")
        panel.set_ylabel(pretty_units(lookup(name).units))
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return drawn
