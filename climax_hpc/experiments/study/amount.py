"""Question: does pretraining help, by amount of target data?"""

from climax_hpc.experiments.study.commands import Study
from climax_hpc.experiments.study.comparison import compare
from climax_hpc.experiments.study.figures import by_category
from climax_hpc.experiments.study.question import Question, Section
from climax_hpc.experiments.study.runner import Step
from climax_hpc.experiments.study.scores import Scores
from climax_hpc.experiments.study.sizes import PRETRAINED, REFERENCE, SCRATCH
from climax_hpc.experiments.study.text import lead, table, title


def evaluations(study: Study) -> dict[str, list[Step]]:
    """Amount -> its evaluations, one per seed: pretrained against from scratch."""
    return {
        amount: [_evaluation(study, amount, seed) for seed in study.size.few_seeds] for amount in study.size.amounts
    }


def _evaluation(study: Study, amount: str, seed: int) -> Step:
    models = {
        PRETRAINED: study.finetune(seed, start=study.pretrained, amount=amount),
        SCRATCH: study.finetune(seed, start=None, amount=amount),
    }
    name = f"amount-{amount.replace('/', 'of')}-seed{seed}"
    return study.evaluate(name, models, leads=study.size.few_lead_hours)


def steps(study: Study) -> list[Step]:
    """Evaluations of every amount and seed."""
    return [step for some in evaluations(study).values() for step in some]


def section(study: Study) -> Section:
    """Pretrained against from scratch, at every amount."""
    size = study.size
    found = {a: Scores.load([step.output for step in some]) for a, some in evaluations(study).items()}
    lines = []
    for amount, scores in found.items():
        against = compare(scores, SCRATCH, size.variables, size.few_lead_hours)
        word = "has no clear effect"
        if against.ahead > against.cases / 2:
            word = "helps"
        elif against.behind > against.cases / 2:
            word = "hurts"
        lines.append(f"- {amount} of the data: pretraining **{word}**: {against.sentence}.")
    parts = ["\n".join(lines), "{figure}", *(_table(study, found, v) for v in size.variables)]
    figure = by_category(
        {label: {a: (scores, label) for a, scores in found.items()} for label in (PRETRAINED, SCRATCH)},
        variables=size.variables, leads=size.few_lead_hours, xlabel="share of the target's data",
    )  # fmt: skip
    return Section(text="\n\n".join(parts), figure=figure, alt="skill by amount of target data")


def _table(study: Study, found: dict[str, Scores], variable: str) -> str:
    rows = [
        [amount, label, *(scores.cell(label, variable, h) for h in study.size.few_lead_hours)]
        for amount, scores in found.items()
        for label in (PRETRAINED, SCRATCH, REFERENCE)
    ]
    return table([title(variable), "", *(lead(h) for h in study.size.few_lead_hours)], rows)


QUESTION = Question(
    name="amount", title="Does pretraining help, by amount of target data?", steps=steps, section=section
)
