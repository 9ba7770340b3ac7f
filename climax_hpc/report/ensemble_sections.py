"""Sections about ensembles on the page of forecasts; empty where the evaluation has none."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from climax_hpc.evaluation.ensemble_metrics import ENERGY_METRICS, ensemble_metrics
from climax_hpc.evaluation.output import lead_key, lead_titles
from climax_hpc.fields.variables import lookup
from climax_hpc.report import ensemble_figures
from climax_hpc.report.ensemble_maps import fan_charts, stamp_map
from climax_hpc.report.ensemble_results import EnsembleMaps, EnsembleScores
from climax_hpc.report.html import details, facts, figure, section, table
from climax_hpc.report.maps import SampleMaps
from climax_hpc.report.style import as_png_uri, as_svg, figure_style
from climax_hpc.report.tables import group_row, score_row
from climax_hpc.utils.formatting import format_score, pretty_units

_KEY = (
    '<p class="key"><span style="background:var(--win)">Green</span>: lower, and the interval of the difference '
    'excludes 0; <span style="background:var(--loss);color:var(--lossink)">▲ red</span>: higher, likewise.</p>'
)


def ensemble_sections(scores: EnsembleScores, maps: SampleMaps, members: EnsembleMaps, variables: Sequence[str]) -> str:
    """Scores of the ensembles, then the members of one forecast."""
    if not scores.ensembles:
        return ""
    scored = [v for v in variables if any(v in scores.card.content["ensemble_scores"][e] for e in scores.ensembles)]
    if not scored:
        return ""
    parts = (_crps(scores, scored), _comparison(scores, scored), _spread(scores, scored), _ranks(scores, scored))
    return "\n".join([*parts, _reliability(scores, scored), _members(scores, maps, members, variables), _all(scores)])


def _crps(scores: EnsembleScores, variables: Sequence[str]) -> str:
    names = {
        f"{label} ({about['members']} members)": ". ".join([about["description"], *about.get("caveats", [])])
        for label, about in scores.ensembles.items()
    }
    caption = (
        "The fair CRPS is the mean absolute error of a distribution: lower is better, and it does not depend on the "
        "number of members. Of a single forecast it is the mean absolute error (MAE)." + _bands(scores)
    )
    with figure_style(for_page=True):
        svg = as_svg(ensemble_figures.crps_curves(scores, variables), "crps")
    return section("Ensembles: CRPS against lead time", facts(names), figure(svg, caption))


def _bands(scores: EnsembleScores) -> str:
    settings = scores.card.content["settings"]
    if "ensemble_intervals" not in scores.card.content:
        return ""
    return f" Bands are {100 * settings['confidence']:g} % intervals of the block bootstrap."


def _comparison(scores: EnsembleScores, variables: Sequence[str]) -> str:
    """A table for every reference; the difference in percent, its interval in small figures."""
    leads, parts = scores.card.lead_hours, []
    for reference in scores.references:
        bodies = []
        for variable in variables:
            rows = []
            for label in (one for one in scores.ensembles if one != reference):
                found = [scores.difference(reference, label, variable, lead) for lead in leads]
                if any(found):
                    cells = "".join(_difference_cell(one) for one in found)
                    rows.append(score_row(label, cells, is_model=label in scores.learned))
            if rows:
                bodies.append("\n".join([group_row(variable, 1 + len(leads)), *rows]))
        if bodies:
            heading = f"<h3>Fair CRPS relative to {escape(reference)}</h3>"
            parts.append(heading + table(["difference [%]", *lead_titles(leads)], bodies))
    text = (
        "<p>Difference of the fair CRPS in percent of the reference's. Small figures: its interval, from draws of both "
        "together (paired).</p>"
    )
    return section("Ensembles: comparison", text, *parts, _KEY) if parts else ""


def _difference_cell(found: dict[str, Any] | None) -> str:
    if found is None or found["relative"] is None:
        return "<td>–</td>"
    shown, ends = _percent(found["relative"]), found["interval"]
    if ends is None or found["relative"] == 0:
        return f"<td>{shown}</td>"
    reference = found["difference"] / found["relative"]
    small = " … ".join(_percent(end / reference) for end in ends)
    if ends[1] < 0:
        return f'<td class="win">{shown}<small>{small}</small></td>'
    if ends[0] > 0:
        return f'<td class="loss">▲ {shown}<small>{small}</small></td>'
    return f"<td>{shown}<small>{small}</small></td>"


def _percent(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def _spread(scores: EnsembleScores, variables: Sequence[str]) -> str:
    caption = (
        "A reliable ensemble spreads as much as its mean errs: a ratio of 1, corrected for the number of members. "
        "Below 1 it is too sure, above 1 too unsure." + _bands(scores)
    )
    with figure_style(for_page=True):
        svg = as_svg(ensemble_figures.spread_skill(scores, variables), "spread")
    return section("Ensembles: spread and skill", figure(svg, caption))


def _ranks(scores: EnsembleScores, variables: Sequence[str]) -> str:
    label = scores.headline
    if not any(scores.ranks(label, v, lead) for v in variables for lead in scores.shown_leads()):
        return ""
    caption = (
        f"{label}: how often the truth has each rank among the {scores.members(label)} members. Flat (1) if the truth "
        "is like one more member; high ends: too little spread; a slope: bias. Lines are intervals of the bootstrap."
    )
    with figure_style(for_page=True):
        svg = as_svg(ensemble_figures.rank_histograms(scores, variables), "ranks")
    return section("Ensembles: rank histograms", figure(svg, caption))


def _reliability(scores: EnsembleScores, variables: Sequence[str]) -> str:
    label, leads = scores.headline, scores.shown_leads()
    found = (
        scores.reliability(label, v, lead, percentile)
        for v in variables
        for lead in leads
        for percentile in scores.percentiles
    )
    if not any(found):
        return ""
    caption = (
        f"{label}: how often events happened that were forecast with a probability, the share of the members. On the "
        "diagonal the probabilities are right. Larger dots: forecast more often. Later lead times are paler."
    )
    with figure_style(for_page=True):
        svg = as_svg(ensemble_figures.reliability(scores, variables), "reliability")
    return section("Ensembles: reliability", figure(svg, caption))


def _members(scores: EnsembleScores, maps: SampleMaps, members: EnsembleMaps, variables: Sequence[str]) -> str:
    """The members of one forecast: a stamp map of the first variable that has one, and fans."""
    shown, parts = scores.card.content["map"], []
    fans = members.fans
    if fans and (names := [v for v in variables if v in fans.variables]):
        colour = scores.styles()[scores.headline]["color"]
        with figure_style(for_page=True):
            svg = as_svg(fan_charts(fans, names, colour), "fans")
        parts.append(figure(svg, f"Forecast from {shown['start']} at points, and the truth."))
    stamped = [v for v in variables if v in maps.variables][:1] or maps.variables[:1]
    if members.members_MVHW is not None and len(members.members_MVHW) > 1:
        with figure_style(for_page=False):
            uri = as_png_uri(stamp_map(maps, members.members_MVHW, stamped[0]))
        text = f"Truth, mean, spread and members of {lookup(stamped[0]).name}"
        caption = f"{shown['lead_hours']:g} h forecast from {shown['start']} for {shown['valid']}."
        parts.append(
            f'<figure><img alt="{escape(text)}" src="{uri}"><figcaption>{escape(caption)}</figcaption></figure>'
        )
    return section(f"Members of one forecast of {shown['model']}", *parts)


def _all(scores: EnsembleScores) -> str:
    """Every score of every ensemble, a collapsed table per variable, and the energy score of all of them together."""
    leads, parts = scores.card.lead_hours, []
    metrics = ensemble_metrics(scores.percentiles).values()
    for variable in scores.card.variables:
        rows = []
        for metric in metrics:
            units = metric.units(variable)
            name = metric.title if units == "1" else f"{metric.title} [{pretty_units(units)}]"
            for label in scores.ensembles:
                values = [_or_none(scores.value(label, variable, lead, metric.name)) for lead in leads]
                if any(value is not None for value in values):
                    rows.append(_score_cells(name, label, values))
        if rows:
            heading = f"{lookup(variable).short_name} – {lookup(variable).name}"
            parts.append(details(heading, table(["", "", *lead_titles(leads)], ["\n".join(rows)])))
    energy = [
        _score_cells(metric.title, label, [about["scores"].get(lead_key(t), {}).get(metric.name) for t in leads])
        for metric in ENERGY_METRICS.values()
        for label, about in scores.energy.items()
    ]
    if energy:
        parts.append(details("All variables together", table(["", "", *lead_titles(leads)], ["\n".join(energy)])))
    return section("Ensembles: all scores", *parts)


def _score_cells(name: str, label: str, values: Sequence[float | None]) -> str:
    cells = "".join(f"<td>{format_score(value)}</td>" for value in values)
    return f'<tr><th scope="row">{escape(name)}</th><th scope="row">{escape(label)}</th>{cells}</tr>'


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
