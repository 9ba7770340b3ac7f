"""Tables and sentences of scores as HTML, all text escaped: headline table, all scores, which baselines are beaten."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from climax_hpc.evaluation.metrics import RMSE, ForecastMeans, Metric
from climax_hpc.evaluation.output import lead_key, lead_titles
from climax_hpc.evaluation.scorecard import Scorecard
from climax_hpc.fields.variables import lookup
from climax_hpc.report.html import details, table
from climax_hpc.utils.formatting import format_score, pretty_units


def headline_table(card: Scorecard, variables: Sequence[str]) -> str:
    """RMSE of models and baselines by variable and lead time; marks the best, and where models beat all baselines."""
    bodies = []
    for variable in variables:
        rows = [group_row(variable, 1 + len(card.lead_hours))]
        for label in (*card.models, *card.baselines):
            cells = "".join(_headline_cell(card, label, variable, lead) for lead in card.lead_hours)
            rows.append(score_row(label, cells, is_model=label in card.models))
        bodies.append("\n".join(rows))
    return table([RMSE.title, *lead_titles(card.lead_hours)], bodies)


def _headline_cell(card: Scorecard, label: str, variable: str, lead: float) -> str:
    value = card.value(label, variable, lead)
    best = label in card.best(variable, lead)
    shown = f"<b>{format_score(value)}</b>" if best else format_score(value)
    if value is None or label not in card.models:
        return f"<td>{shown}</td>"
    unbeaten, reference = card.unbeaten_baselines(label, variable, lead), card.best_baseline(variable, lead)
    change = f"<small>{_percent(value / reference - 1)}</small>" if reference else ""
    return model_cell(f"{shown}{change}", unbeaten)


def _percent(share: float) -> str:
    """A signed percentage, with decimals where it is small."""
    digits = 0 if abs(share) >= 0.1 else 1
    return f"{100 * share:+.{digits}f} %".replace("-", "−")


def summary_sentence(card: Scorecard) -> str:
    """How often the headline model beats every baseline, and where it does not."""
    model = card.models[0]
    cases = sum(card.value(model, v, lead) is not None for v in card.variables for lead in card.lead_hours)
    losses = card.losses(model)
    lost = sum(len(leads) for by_baseline in losses.values() for leads in by_baseline.values())
    text = (
        f"<strong>{escape(model)}</strong> has a lower {RMSE.title} than every baseline in {cases - lost} of {cases} "
        "cases (variable × lead time)."
    )
    named = [
        f"{lookup(variable).short_name} at {', '.join(map(lead_key, leads))} h ({', '.join(unbeaten)})"
        for variable, by_baseline in losses.items()
        for unbeaten, leads in by_baseline.items()
    ]
    return f"<p>{text} Baselines that it does not beat: {escape('; '.join(named))}.</p>" if named else f"<p>{text}</p>"


def all_scores(card: Scorecard) -> str:
    """Every metric of every variable, one collapsible table each."""
    parts = []
    for variable in card.variables:
        known = lookup(variable)
        rows = []
        for metric in card.metrics:
            for label in (*card.models, *card.baselines):
                cells = "".join(_plain_cell(card, label, variable, lead, metric) for lead in card.lead_hours)
                name = f"{metric.title} [{pretty_units(metric.units(variable))}]"
                rows.append(f'<tr><th scope="row">{escape(name)}</th><th scope="row">{escape(label)}</th>{cells}</tr>')
        scores = table(["", "", *lead_titles(card.lead_hours)], ["\n".join(rows)])
        parts.append(details(f"{known.short_name} – {known.name}", scores))
    return "\n".join(parts)


def _plain_cell(card: Scorecard, label: str, variable: str, lead: float, metric: Metric[ForecastMeans]) -> str:
    value = card.value(label, variable, lead, metric.name)
    shown = format_score(value)
    best = label in card.best(variable, lead, metric.name)
    return f"<td><b>{shown}</b></td>" if best else f"<td>{shown}</td>"


def group_row(variable: str, columns: int) -> str:
    """The heading row above the scores of a variable."""
    known = lookup(variable)
    name = f"{escape(known.short_name)} <small>{escape(known.name)} [{pretty_units(known.units)}]</small>"
    return f'<tr class="group"><th scope="rowgroup" colspan="{columns}">{name}</th></tr>'


def score_row(label: str, cells: str, *, is_model: bool) -> str:
    """The row of a label; `cells` are its <td> elements."""
    kind = "model" if is_model else "baseline"
    return f'<tr class="{kind}"><th scope="row">{escape(label)}</th>{cells}</tr>'


def model_cell(shown: str, unbeaten: Sequence[str]) -> str:
    """A model's score: green, or red where it does not beat the baselines `unbeaten`."""
    if unbeaten:
        return f'<td class="loss" title="not better than {escape(", ".join(unbeaten))}">▲ {shown}</td>'
    return f'<td class="win">{shown}</td>'


def sentence_by_variable(
    model: str, score: str, rivals: str, *, scored: Sequence[str], lost: Sequence[str], difference: str
) -> str:
    """For how many variables the model's score is lower than every rival's, and for which not; `difference` is HTML."""
    text = (
        f"<strong>{escape(model)}</strong> has a lower {score} than every {rivals} for {len(scored) - len(lost)} of "
        f"{len(scored)} variables."
    )
    if lost:
        text += f" It does not for {escape(short_names(lost))}."
    return f"<p>{text}{difference}</p>"


def span(first: object, last: object) -> str:
    """A period or range of years: `2004`, or `2001 … 2003`."""
    return str(first) if first == last else f"{first} … {last}"


def short_names(variables: Sequence[str]) -> str:
    """Short names in one line, or `none`."""
    return ", ".join(lookup(name).short_name for name in variables) or "none"


def interval_caption(content: Mapping[str, Any], over: str, blocks: str = "") -> str:
    """Caption of `figures.interval_panels`; `over`: what the bootstrap draws."""
    if "intervals" not in content:
        return "Lower is better."
    settings = content["settings"]
    return (
        f"Lower is better. Bars are {100 * settings['confidence']:g} % intervals of a block bootstrap over the {over} "
        f"({settings['resamples']} draws{blocks})."
    )


def with_interval(value: float | None, interval: Sequence[float] | None, *, best: bool) -> str:
    """A score, bold if it is the best, with its interval in small figures below."""
    shown = f"<b>{format_score(value)}</b>" if best else format_score(value)
    return shown + (f"<small>{' … '.join(map(format_score, interval))}</small>" if interval else "")
