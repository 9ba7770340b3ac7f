"""The report of downscaling: scores on pairs, maps, distributions, and unpaired sources, marked as such."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

from matplotlib.figure import Figure

from climax_hpc.config.inference import ReportConfig
from climax_hpc.evaluation.distributions import DISTRIBUTION_METRICS
from climax_hpc.evaluation.metrics import METRICS, RMSE, ForecastMeans, Metric
from climax_hpc.evaluation.scorecard import Scorecard
from climax_hpc.fields.variables import lookup
from climax_hpc.report import figures
from climax_hpc.report.html import document, figure, section, table
from climax_hpc.report.maps import SampleMaps
from climax_hpc.report.paper_scores import compare_downscaling
from climax_hpc.report.sections import anomaly_note, maps_section, origin_section, table_key, training_section
from climax_hpc.report.style import as_svg, figure_style
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
from climax_hpc.utils.formatting import format_score

_LEAD = 0.0
_KEY = table_key(
    RMSE.title,
    "interpolation",
    f"Small figures: intervals. {METRICS['pearson'].title} is {METRICS['pearson'].description}.",
)


def downscaling_report(config: ReportConfig) -> tuple[str, Callable[[], Figure]]:
    """The page of the downscaling that a config names, and a function that draws its summary figure."""
    card, maps = Scorecard.load(config.evaluation), SampleMaps.load(config.evaluation)
    title = config.title or "Downscaling scorecard"
    return downscaling_page(title, card, maps, load_histories(config.runs)), partial(downscaling_figure, card)


def downscaling_page(title: str, card: Scorecard, maps: SampleMaps, histories: Sequence[RunHistory]) -> str:
    """The page as HTML."""
    shown = card.content["map"]
    caption = f"{shown['model']} at {shown['valid']}, in the held-out period. The error is downscaled minus truth."
    sections = (
        section("Scores on the held-out pairs", _summary(card), anomaly_note(card.content), _scores(card), _KEY),
        section(RMSE.title, _rmse(card)),
        maps_section("Example field", caption, maps, card.variables, "downscaled"),
        section("Distributions of single cells", _cells(card.content["distributions"], card)),
        *(_unpaired(label, found, card) for label, found in card.content["unpaired"].items()),
        section("Comparison with the ClimaX paper", compare_downscaling(card, (len(maps.lat), len(maps.lon)))),
        training_section(histories),
        origin_section(card.content, histories),
    )
    return document(title, _subtitle(card), sections)


def downscaling_figure(card: Scorecard) -> Figure:
    """RMSE of every variable with intervals, relative to the best interpolation's."""
    panels = {}
    for variable in card.variables:
        scale = card.best_baseline(variable, _LEAD) or 1.0
        labels = [x for x in (*card.models, *card.baselines) if card.value(x, variable, _LEAD) is not None]
        panels[lookup(variable).short_name] = [
            figures.ScoreRow(
                label=label,
                value=(card.value(label, variable, _LEAD) or 0.0) / scale,
                interval=[x / scale for x in card.interval(label, variable, _LEAD) or ()] or None,
                is_model=label in card.models,
            )
            for label in labels
        ]
    return figures.interval_panels(panels, "RMSE / best interpolation's")


def _subtitle(card: Scorecard) -> str:
    settings = card.content["settings"]
    return (
        f"{card.content['coarse_source']} to {card.content['source']}, held-out period "
        f"{span(*settings['period'])}, training period {span(*settings['train_period'])}; the same "
        f"{sum(card.content['pairs'].values())} times for every model and baseline; latitude weights: "
        f"{settings['latitude_weights']}"
    )


def _summary(card: Scorecard) -> str:
    model = card.models[0]
    scored = [v for v in card.variables if card.value(model, v, _LEAD) is not None]
    difference = ""
    if card.reference and card.reference != model:
        found = {v: card.difference(model, v, _LEAD) for v in scored}
        clear = [v for v, d in found.items() if d and card.is_significant(d)]
        difference = (
            f" The interval of its paired difference from {escape(card.reference)} excludes 0 for "
            f"{escape(short_names(clear))}."
        )
    lost = list(card.losses(model))
    return sentence_by_variable(model, "RMSE", "interpolation", scored=scored, lost=lost, difference=difference)


def _scores(card: Scorecard) -> str:
    bodies = []
    for variable in card.variables:
        rows = [group_row(variable, 1 + len(card.metrics))]
        for label in (*card.models, *card.baselines):
            if card.value(label, variable, _LEAD) is None:
                continue
            cells = "".join(_cell(card, label, variable, metric) for metric in card.metrics)
            rows.append(score_row(label, cells, is_model=label in card.models))
        bodies.append("\n".join(rows))
    return table(["", *(metric.title for metric in card.metrics)], bodies)


def _cell(card: Scorecard, label: str, variable: str, metric: Metric[ForecastMeans]) -> str:
    value = card.value(label, variable, _LEAD, metric.name)
    best = label in card.best(variable, _LEAD, metric.name)
    shown = with_interval(value, card.interval(label, variable, _LEAD, metric.name), best=best)
    if metric.name != RMSE.name or label not in card.models:
        return f"<td>{shown}</td>"
    return model_cell(shown, card.unbeaten_baselines(label, variable, _LEAD))


def _rmse(card: Scorecard) -> str:
    with figure_style(for_page=True):
        svg = as_svg(downscaling_figure(card), "rmse")
    return figure(svg, interval_caption(card.content, "times"))


def _cells(found: Mapping[str, Mapping[str, Mapping[str, float]]], card: Scorecard) -> str:
    """A table of the metrics of distributions: label -> variable -> metric."""
    bodies = []
    for variable in card.variables:
        rows = [group_row(variable, 1 + len(DISTRIBUTION_METRICS))]
        for label, scores in found.items():
            if variable in scores:
                cells = "".join(f"<td>{format_score(scores[variable].get(key))}</td>" for key in DISTRIBUTION_METRICS)
                rows.append(score_row(label, cells, is_model=label in card.models))
        bodies.append("\n".join(rows))
    text = "<p>Each is computed per cell over all times and then averaged by area (docs/guides/downscaling.md).</p>"
    return text + table(["", *(metric.title for metric in DISTRIBUTION_METRICS.values())], bodies)


def _unpaired(label: str, found: Mapping[str, Any], card: Scorecard) -> str:
    flag = f"Unpaired: {found['source']} is {found['note']}. {found['times']} times."
    return section(f"{label} (unpaired)", f'<p class="note unpaired">{escape(flag)}</p>', _cells(found["scores"], card))
