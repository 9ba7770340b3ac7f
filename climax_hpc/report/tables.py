"""The tables of a report as HTML, all text escaped: headline with wins and losses, all scores."""

from collections.abc import Sequence
from html import escape

from climax_hpc.evaluation.contest import lead_key
from climax_hpc.evaluation.metrics import units
from climax_hpc.evaluation.scorecard import Scorecard, format_score, pretty_units
from climax_hpc.report.document import details, table
from climax_hpc.variables import lookup

_METRICS = {"rmse": "RMSE", "mae": "MAE", "bias": "bias", "acc": "ACC"}


def headline_table(card: Scorecard, variables: Sequence[str]) -> str:
    """RMSE of models and baselines by variable and lead: best in bold, models that a baseline matches marked."""
    bodies = []
    for variable in variables:
        rows = [group_row(variable, 1 + len(card.lead_hours))]
        for label in (*card.models, *card.baselines):
            cells = "".join(_headline_cell(card, label, variable, lead) for lead in card.lead_hours)
            kind = "model" if label in card.models else "baseline"
            rows.append(f'<tr class="{kind}"><th scope="row">{escape(label)}</th>{cells}</tr>')
        bodies.append("\n".join(rows))
    return table(["RMSE", *_leads(card.lead_hours)], bodies)


def _headline_cell(card: Scorecard, label: str, variable: str, lead: float) -> str:
    value = card.value(label, variable, lead)
    best = label in card.best(variable, lead)
    shown = f"<b>{format_score(value)}</b>" if best else format_score(value)
    if value is None or label not in card.models:
        return f"<td>{shown}</td>"
    unbeaten, reference = card.unbeaten_baselines(label, variable, lead), card.best_baseline(variable, lead)
    change = f"<small>{_percent(value / reference - 1)}</small>" if reference else ""
    if unbeaten:
        return f'<td class="loss" title="not better than {escape(", ".join(unbeaten))}">▲ {shown}{change}</td>'
    return f'<td class="win">{shown}{change}</td>'


def _percent(share: float) -> str:
    """A signed percentage, with decimals where it is small."""
    digits = 0 if abs(share) >= 0.1 else 1
    return f"{100 * share:+.{digits}f} %".replace("-", "−")


def verdict(card: Scorecard) -> str:
    """How often the headline model beats every baseline, and a list of where it does not."""
    model = card.models[0]
    cases = sum(card.value(model, v, lead) is not None for v in card.variables for lead in card.lead_hours)
    losses = card.losses(model)
    lost = sum(len(leads) for by_baseline in losses.values() for leads in by_baseline.values())
    text = (
        f"<strong>{escape(model)}</strong> has a lower RMSE than every baseline in {cases - lost} of {cases} cases "
        "(variable × lead time)."
    )
    named = [
        f"{lookup(variable).short_name} at {', '.join(map(lead_key, leads))} h (against {', '.join(unbeaten)})"
        for variable, by_baseline in losses.items()
        for unbeaten, leads in by_baseline.items()
    ]
    return f"<p>{text} It does not beat them for {escape('; '.join(named))}.</p>" if named else f"<p>{text}</p>"


def all_scores(card: Scorecard) -> str:
    """Every metric of every variable, one collapsible table each."""
    parts = []
    for variable in card.variables:
        known = lookup(variable)
        rows = []
        for metric, title in _METRICS.items():
            for label in (*card.models, *card.baselines):
                cells = "".join(_plain_cell(card, label, variable, lead, metric) for lead in card.lead_hours)
                name = f"{title} [{pretty_units(units(metric, variable))}]"
                rows.append(f'<tr><th scope="row">{escape(name)}</th><th scope="row">{escape(label)}</th>{cells}</tr>')
        scores = table(["", "", *_leads(card.lead_hours)], ["\n".join(rows)])
        parts.append(details(f"{known.short_name} – {known.name}", scores))
    return "\n".join(parts)


def _plain_cell(card: Scorecard, label: str, variable: str, lead: float, metric: str) -> str:
    value = card.value(label, variable, lead, metric)
    shown = format_score(value)
    best = metric != "bias" and label in card.best(variable, lead, metric)
    return f"<td><b>{shown}</b></td>" if best else f"<td>{shown}</td>"


def group_row(variable: str, columns: int) -> str:
    """The row above the scores of a variable."""
    known = lookup(variable)
    name = f"{escape(known.short_name)} <small>{escape(known.name)} [{pretty_units(known.units)}]</small>"
    return f'<tr class="group"><th scope="rowgroup" colspan="{columns}">{name}</th></tr>'


def with_interval(value: float | None, interval: Sequence[float] | None, *, best: bool) -> str:
    """A score, bold where it is the best, with its interval in small figures below."""
    shown = f"<b>{format_score(value)}</b>" if best else format_score(value)
    return shown + (f"<small>{' … '.join(map(format_score, interval))}</small>" if interval else "")


def _leads(leads: Sequence[float]) -> list[str]:
    return [f"{lead_key(lead)} h" for lead in leads]
