"""Question: does pretraining help, by amount of target data, and which network gains most?"""

from functools import cache

from climax_hpc.experiments.study import headline
from climax_hpc.experiments.study.commands import Study
from climax_hpc.experiments.study.comparison import compare
from climax_hpc.experiments.study.figures import by_category
from climax_hpc.experiments.study.networks import PRETRAINED, SCRATCH, VIT_PRETRAINED, VIT_SCRATCH
from climax_hpc.experiments.study.question import Question, Section
from climax_hpc.experiments.study.runner import Step
from climax_hpc.experiments.study.scores import Scores
from climax_hpc.experiments.study.sizes import REFERENCE
from climax_hpc.experiments.study.text import lead, table, title
from climax_hpc.experiments.study.trainings import both_ways
from climax_hpc.experiments.study.verdicts import VerdictRow, rows_of


@cache
def evaluations(study: Study) -> dict[str, list[Step]]:
    """Amount -> its evaluations, one per seed; those of all data are the headline's."""
    parts = [amount for amount in study.size.amounts if amount != "1"]
    found = {amount: [_evaluation(study, amount, seed) for seed in study.size.few_seeds] for amount in parts}
    return found | {"1": headline.evaluations(study)}


def _evaluation(study: Study, amount: str, seed: int) -> Step:
    name = f"amount-{amount.replace('/', 'of')}-seed{seed}"
    return study.test(name, both_ways(study, seed, amount), leads=study.size.few_lead_hours)


def steps(study: Study) -> list[Step]:
    """Evaluations of every amount and seed."""
    return [step for some in evaluations(study).values() for step in some]


def verdicts(study: Study) -> list[VerdictRow]:
    """The pretrained ClimaX against all others, on parts of the data."""
    size, found = study.size, _scores(study)
    return [
        row
        for amount, scores in found.items()
        if amount != "1"
        for row in rows_of(f"amount {amount}", scores, size.variables, size.few_lead_hours)
    ]


def _scores(study: Study) -> dict[str, Scores]:
    return {amount: Scores.load([step.output for step in some]) for amount, some in evaluations(study).items()}


def section(study: Study) -> Section:
    """Pretrained against from scratch, and against the other networks, at every amount."""
    size, found = study.size, _scores(study)
    others = [network.pretrained for network in size.rivals if network.pretrains]
    lines = []
    for amount, scores in found.items():
        against = compare(scores, SCRATCH, size.variables, size.few_lead_hours)
        word = "has no clear effect"
        if against.ahead > against.cases / 2:
            word = "helps"
        elif against.behind > against.cases / 2:
            word = "hurts"
        lines.append(f"- {amount} of the data: pretraining **{word}**: {against.sentence}.")
        for other in others:
            compared = compare(scores, other, size.variables, size.few_lead_hours)
            lines.append(f"- {amount} of the data, against {other}: {compared.sentence}.")
    parts = [
        f"{size.few_steps} steps on parts of the data, {size.finetune_steps} on all of them, whose scores are those of "
        "the first question.",
        "\n".join(lines),
        "{figure}",
        *(_table(study, found, v) for v in size.variables),
    ]
    shown = (PRETRAINED, SCRATCH, VIT_PRETRAINED, VIT_SCRATCH, *others[1:])
    figure = by_category(
        {label: {a: (scores, label) for a, scores in found.items()} for label in shown},
        variables=size.variables, leads=size.few_lead_hours, xlabel="share of the target's data",
    )  # fmt: skip
    return Section(text="\n\n".join(parts), figure=figure, alt="skill by amount of target data")


def _table(study: Study, found: dict[str, Scores], variable: str) -> str:
    rows = [
        [amount, label, *(scores.cell(label, variable, h) for h in study.size.few_lead_hours)]
        for amount, scores in found.items()
        for label in (*scores.models, REFERENCE)
    ]
    return table([title(variable), "", *(lead(h) for h in study.size.few_lead_hours)], rows)


QUESTION = Question(
    name="amount", title="Does pretraining help, by amount of target data?", steps=steps, section=section,
    verdicts=verdicts,
)  # fmt: skip
