"""Question: is the pretrained ClimaX better than simple forecasts and other networks, by lead time?"""

from functools import cache
from pathlib import Path

from climax_hpc.experiments.study.commands import Study
from climax_hpc.experiments.study.comparison import compare
from climax_hpc.experiments.study.figures import skill_by_lead
from climax_hpc.experiments.study.networks import PRETRAINED
from climax_hpc.experiments.study.question import Question, Section
from climax_hpc.experiments.study.runner import Step
from climax_hpc.experiments.study.scores import Scores, Verdict
from climax_hpc.experiments.study.text import lead, listed, scores_table, table, title
from climax_hpc.experiments.study.trainings import both_ways
from climax_hpc.experiments.study.verdicts import VerdictRow, rows_of

OPPONENTS_FROM_HOURS = 24  # "beyond one day": longer lead times
_NEAR_CLIMATOLOGY = 0.9  # RMSE relative to climatology above which little is predictable
_MARKS = {Verdict.BETTER: "✓", Verdict.PAIRED: "(✓)", Verdict.OPEN: "=", Verdict.WORSE: "✗"}


@cache
def evaluations(study: Study) -> list[Step]:
    """One evaluation per seed of all networks, both ways; the pretrained ClimaX first."""
    return [
        study.test(f"headline-seed{seed}", both_ways(study, seed), leads=study.size.lead_hours)
        for seed in study.size.seeds
    ]


def verdicts(study: Study) -> list[VerdictRow]:
    """The pretrained ClimaX against all others, at all lead times."""
    return rows_of("headline", Scores.load(folders(study)), study.size.variables, study.size.lead_hours)


def folders(study: Study) -> list[Path]:
    """Folders of the evaluations."""
    return [step.output for step in evaluations(study)]


def section(study: Study) -> Section:
    """Scores of all models, and where the pretrained ClimaX is better."""
    scores, size = Scores.load(folders(study)), study.size
    beyond = [h for h in size.lead_hours if h > OPPONENTS_FROM_HOURS]
    parts = [
        _outcome(scores, size.variables, beyond),
        "{figure}",
        f"RMSE, mean of {len(size.seeds)} seeds, with the interval over test weather and seeds in brackets; bold: "
        "lowest.",
        *(scores_table(scores, variable, scores.labels, size.lead_hours) for variable in size.variables),
        _verdict_table(scores, size.variables, beyond),
        _why_not(scores, size.variables, beyond),
    ]
    figure = skill_by_lead(scores, size.variables)
    return Section(text="\n\n".join(part for part in parts if part), figure=figure, alt="RMSE by lead time")


def _outcome(scores: Scores, variables: tuple[str, ...], leads: list[int]) -> str:
    """The headline in sentences: comparison with each model at lead times beyond one day."""
    lines = [f"{PRETRAINED} at lead times beyond one day ({lead(leads[0])} to {lead(leads[-1])}), compared with"]
    for other in [one for one in scores.labels if one != PRETRAINED]:
        against = compare(scores, other, variables, leads)
        apart, paired, cases = against.counts[Verdict.BETTER], against.counts[Verdict.PAIRED], against.cases
        if apart == cases:
            verdict = f"**better in all {cases} cases; intervals do not overlap**"
        elif against.ahead == cases:
            verdict = f"better in all {cases} cases by paired intervals; intervals do not overlap in {apart}"
        else:
            verdict = (
                f"**not better in all {cases} cases**: better without overlap of the intervals in {apart}, by paired "
                f"intervals in {paired} more; undecided in {against.counts[Verdict.OPEN]}; worse in {against.behind}"
            )
        lines.append(f"- {other}: {verdict}. RMSE, mean over the variables: {against.changes}.")
    return lines[0] + "\n\n" + "\n".join(lines[1:])


def _verdict_table(scores: Scores, variables: tuple[str, ...], leads: list[int]) -> str:
    rows = [
        [other, *(" ".join(_MARKS[scores.verdict(other, v, h)] for v in variables) for h in leads)]
        for other in scores.labels
        if other != PRETRAINED
    ]
    names = listed([title(v).split(" ")[0] for v in variables])
    return (
        f"{PRETRAINED} compared with each model for {names}, in this order. ✓: better, intervals do not overlap. (✓): "
        "intervals overlap, but the interval of the difference on the same forecasts (paired bootstrap) is below 0. "
        "=: undecided. ✗: worse.\n\n" + table(["", *(lead(h) for h in leads)], rows)
    )


def _why_not(scores: Scores, variables: tuple[str, ...], leads: list[int]) -> str:
    """Explanations, each included only if its condition holds."""
    missed = [
        (other, v, h)
        for other in scores.labels
        if other != PRETRAINED
        for v in variables
        for h in leads
        if scores.verdict(other, v, h) is not Verdict.BETTER
    ]
    if not missed:
        return ""
    late = [
        h
        for h in leads
        if min(scores.ratio(label, "climatology", variables, h) for label in scores.models) > _NEAR_CLIMATOLOGY
    ]
    parts = ["**Where it is not better, and why.**"]
    if any(h in late for _, _, h in missed):
        inside = sum(h in late for _, _, h in missed)
        parts.append(
            f"{inside} of these {len(missed)} cases are at {listed([lead(h) for h in late])}, where every network has "
            f"more than {100 * _NEAR_CLIMATOLOGY:.0f} % of the RMSE of climatology: little of the weather is "
            "predictable at these lead times (or no network has learnt to predict it). All networks contain the "
            "climatology through the `anomaly` output, so their scores are close to it, and differ less than test "
            "weeks do."
        )
    early = sorted({other for other, _, h in missed if h not in late})
    if early:
        worse = sorted(
            {other for other, v, h in missed if h not in late and scores.verdict(other, v, h) is Verdict.WORSE}
        )
        parts.append(
            f"At shorter lead times its intervals overlap with those of {listed(early)} in some variables"
            + (f", and it is worse than {listed(worse)} in some" if worse else "")
            + ". The intervals include differences between test weeks, which are common to all forecasts; (✓) marks "
            "cases where the paired comparison, which removes this part, shows it to be better."
        )
    return " ".join(parts)


QUESTION = Question(
    name="headline", title="Is the pretrained ClimaX better than simple forecasts and other networks?",
    steps=evaluations, section=section, verdicts=verdicts,
)  # fmt: skip
