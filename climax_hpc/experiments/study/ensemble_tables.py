"""Tables of the study's ensembles: CRPS, spread/skill, and both against the ensemble of the climate model."""

from collections.abc import Sequence

from climax_hpc.experiments.study.ensemble_scores import SPREAD_SKILL, ScoresOfEnsembles
from climax_hpc.experiments.study.scores import Interval
from climax_hpc.experiments.study.text import lead, table, title
from climax_hpc.utils.formatting import format_score

_AGAINST_TRUTH = {
    "crps_difference": "CRPS above the truth's",
    SPREAD_SKILL: "spread / skill",
    "spread_ratio": "spread / true spread",
}


def crps_table(scores: ScoresOfEnsembles, variable: str, leads: Sequence[int], deterministic: str) -> str:
    """Fair CRPS of all ensembles with intervals, the lowest one bold, and the error of the deterministic forecast."""
    rows = [[label, *(_crps(scores, label, variable, h) for h in leads)] for label in scores.labels]
    rows.append([f"{deterministic} (error)", *(format_score(scores.error(deterministic, variable, h)) for h in leads)])
    return table([title(variable), *_head(leads)], rows)


def spread_table(
    scores: ScoresOfEnsembles, variables: Sequence[str], leads: Sequence[int], labels: Sequence[str]
) -> str:
    """Spread/skill of these ensembles."""
    rows = [
        [f"{title(v)}, {label}", *(f"{scores.value(label, v, h, SPREAD_SKILL):.2f}" for h in leads)]
        for v in variables
        for label in labels
    ]
    return table(["", *_head(leads)], rows)


def against_truth(
    scores: ScoresOfEnsembles, variables: Sequence[str], leads: Sequence[int], labels: Sequence[str]
) -> str:
    """The scores of these ensembles against the ensemble of the climate model itself."""
    rows = [
        [f"{title(v)}, {words}, {label}", *(_divergence(scores, label, v, h, name) for h in leads)]
        for v in variables
        for name, words in _AGAINST_TRUTH.items()
        for label in labels
    ]
    divergence = scores.contents[0]["divergence"]
    return (
        f"**Against the climate model's own ensemble.** From {max(divergence['starts'].values())} starts of the test "
        f"period, {divergence['members']} members of the climate model itself, whose starts differ by less than what "
        "the networks see. Its spread is what the weather's own chaos leaves unknown; the network's also holds what it "
        "does not know of the state and of the model.\n\n" + table(["", *_head(leads)], rows)
    )


def _head(leads: Sequence[int]) -> list[str]:
    return [lead(h) for h in leads]


def _crps(scores: ScoresOfEnsembles, label: str, variable: str, hours: float) -> str:
    value, interval = scores.value(label, variable, hours), scores.interval(label, variable, hours)
    best = value <= min(scores.value(one, variable, hours) for one in scores.labels)
    shown = f"**{format_score(value)}**" if best else format_score(value)
    return f"{shown} {_brackets(interval)}"


def _divergence(scores: ScoresOfEnsembles, label: str, variable: str, hours: float, metric: str) -> str:
    value, interval = scores.divergence(label, variable, hours, metric)
    return f"{format_score(value)} {_brackets(interval)}"


def _brackets(interval: Interval) -> str:
    return f"[{format_score(interval[0])}, {format_score(interval[1])}]"
