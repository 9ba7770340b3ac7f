"""Question: is the pretrained ClimaX better than simple forecasts and other networks, by lead time?"""

from pathlib import Path

from climax_hpc.experiments.study.commands import Study
from climax_hpc.experiments.study.comparison import compare
from climax_hpc.experiments.study.figures import skill_by_lead
from climax_hpc.experiments.study.question import Question, Section
from climax_hpc.experiments.study.runner import Step
from climax_hpc.experiments.study.scores import Scores, Verdict
from climax_hpc.experiments.study.sizes import BATCH, PRETRAINED, SCRATCH
from climax_hpc.experiments.study.text import lead, listed, scores_table, table, title
from climax_hpc.report.training_curves import RunHistory

OPPONENTS_FROM_HOURS = 24  # "beyond one day": leads above this
_NEAR_CLIMATOLOGY = 0.9  # RMSE as a share of climatology's above which little is left to forecast
_MARKS = {Verdict.BEATS: "✓", Verdict.PAIRED: "(✓)", Verdict.OPEN: "=", Verdict.LOSES: "✗"}


def models(study: Study, seed: int) -> dict[str, Step]:
    """Label -> training; the pretrained ClimaX first."""
    own = {
        PRETRAINED: study.finetune(seed, start=study.pretrained),
        SCRATCH: study.finetune(seed, start=None),
    }
    return own | {n.label: study.finetune(seed, start=None, network=n) for n in study.size.networks}


def steps(study: Study) -> list[Step]:
    """One evaluation per seed."""
    return [
        study.evaluate(f"headline-seed{seed}", models(study, seed), leads=study.size.lead_hours)
        for seed in study.size.seeds
    ]


def folders(study: Study) -> list[Path]:
    """Where the evaluations lie."""
    return [step.output for step in steps(study)]


def section(study: Study) -> Section:
    """Scores of all, and who is beaten where."""
    scores, size = Scores.load(folders(study)), study.size
    beyond = [h for h in size.lead_hours if h > OPPONENTS_FROM_HOURS]
    parts = [
        _outcome(scores, size.variables, beyond),
        "{figure}",
        f"RMSE, mean of {len(size.seeds)} seeds, and interval over test weather and seeds (in brackets); bold: the "
        "lowest.",
        *(scores_table(scores, variable, scores.labels, size.lead_hours) for variable in size.variables),
        _verdict_table(scores, size.variables, beyond),
        _why_not(scores, size.variables, beyond),
        _learning(study, scores, size.variables, beyond),
    ]
    figure = skill_by_lead(scores, size.variables)
    return Section(text="\n\n".join(part for part in parts if part), figure=figure, alt="RMSE by lead time")


def _outcome(scores: Scores, variables: tuple[str, ...], leads: list[int]) -> str:
    """The headline in sentences: against whom intervals do not overlap at all leads beyond a day, and where not."""
    lines = [f"Beyond one day ({lead(leads[0])} to {lead(leads[-1])}), {PRETRAINED} against"]
    for other in [one for one in scores.labels if one != PRETRAINED]:
        against = compare(scores, other, variables, leads)
        apart, paired, cases = against.counts[Verdict.BEATS], against.counts[Verdict.PAIRED], against.cases
        if apart == cases:
            verdict = "**beats it everywhere; intervals do not overlap**"
        elif against.ahead == cases:
            verdict = f"beats it everywhere in pairs; intervals do not overlap in {apart} of {cases} cases"
        else:
            verdict = (
                f"**does not beat it everywhere**: intervals do not overlap in {apart} of {cases} cases, it is ahead "
                f"in pairs in {paired} more, {against.counts[Verdict.OPEN]} are open and {against.behind} lost"
            )
        lines.append(f"- {other}: {verdict}. RMSE, mean of the variables: {against.changes}.")
    return lines[0] + "\n\n" + "\n".join(lines[1:])


def _verdict_table(scores: Scores, variables: tuple[str, ...], leads: list[int]) -> str:
    rows = [
        [other, *(" ".join(_MARKS[scores.verdict(other, v, h)] for v in variables) for h in leads)]
        for other in scores.labels
        if other != PRETRAINED
    ]
    names = listed([title(v).split(" ")[0] for v in variables])
    return (
        f"{PRETRAINED} against each, for {names} in this order. ✓: intervals do not overlap. (✓): they do, but that of "
        "the difference on the same forecasts (paired bootstrap) lies below 0. =: open. ✗: the other one is better.\n\n"
        + table(["", *(lead(h) for h in leads)], rows)
    )


def _why_not(scores: Scores, variables: tuple[str, ...], leads: list[int]) -> str:
    """Fixed explanations, each only where its condition holds."""
    missed = [
        (other, v, h)
        for other in scores.labels
        if other != PRETRAINED
        for v in variables
        for h in leads
        if scores.verdict(other, v, h) is not Verdict.BEATS
    ]
    if not missed:
        return ""
    late = [
        h
        for h in leads
        if min(scores.ratio(label, "climatology", variables, h) for label in scores.models) > _NEAR_CLIMATOLOGY
    ]
    parts = ["**Where it does not beat them, and why.**"]
    if any(h in late for _, _, h in missed):
        inside = sum(h in late for _, _, h in missed)
        parts.append(
            f"{inside} of the {len(missed)} cases lie at {listed([lead(h) for h in late])}, where no network has less "
            f"than {100 * _NEAR_CLIMATOLOGY:.0f} % of the climatology's RMSE: little of the weather can still be "
            "forecast (or none of them has learnt to), every forecast that knows the climatology is near it, as all "
            "networks do by the anomaly output, and their differences are smaller than those between test weeks."
        )
    early = sorted({other for other, _, h in missed if h not in late})
    if early:
        worse = sorted(
            {other for other, v, h in missed if h not in late and scores.verdict(other, v, h) is Verdict.LOSES}
        )
        parts.append(
            f"At shorter leads it does not set itself apart from {listed(early)} in all variables"
            + (f", and loses to {listed(worse)} in some" if worse else "")
            + ". The intervals hold the difference between test weeks, which all forecasts share; where (✓) stands, "
            "the paired comparison, which removes that part, does show it ahead."
        )
    return " ".join(parts)


def _learning(study: Study, scores: Scores, variables: tuple[str, ...], leads: list[int]) -> str:
    """Why convolutions win, where they do: how far each training has come."""
    faster = [
        network.label
        for network in study.size.networks
        if network.convolutional and compare(scores, network.label, variables, leads).behind
    ]
    if not faster:
        return ""
    seed, size = study.size.seeds[0], study.size
    histories = [RunHistory.load(label, step.output) for label, step in models(study, seed).items()]
    rows = [[history.label, f"{history.loss[-1]:.3f}"] for history in histories]
    return (
        f"**A likely reason why {listed(faster)} {'wins' if len(faster) == 1 else 'win'}** (no experiment here "
        "isolates it): a convolution knows from the start that weather is local and follows the same rules everywhere; "
        "attention and patch embedding have to learn both. "
        f"The pretraining that this study can afford, {size.pretrain_steps} steps of {BATCH} samples, does not make up "
        "for it; ClimaX's has 200 000 steps of far larger batches. The training loss (in units of the error of damped "
        "persistence, so that 1 is no better than that), mean of the last steps on the target, seed "
        f"{seed}:\n\n" + table(["network", "loss"], rows)
    )


QUESTION = Question(
    name="headline", title="Is the pretrained ClimaX better than simple forecasts and other networks?", steps=steps,
    section=section,
)  # fmt: skip
