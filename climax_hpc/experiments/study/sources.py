"""Question: do more pretraining sources help, at equal steps?"""

from climax_hpc.experiments.study.commands import Study
from climax_hpc.experiments.study.comparison import compare
from climax_hpc.experiments.study.figures import by_category
from climax_hpc.experiments.study.question import Question, Section
from climax_hpc.experiments.study.runner import Step
from climax_hpc.experiments.study.scores import Scores
from climax_hpc.experiments.study.sizes import REFERENCE, SCRATCH
from climax_hpc.experiments.study.text import scores_table


def label(number: int) -> str:
    """Label of a model pretrained on that many sources."""
    return f"pretrained on {number}"


def steps(study: Study) -> list[Step]:
    """One evaluation per seed; the model with most sources first, because the others are compared with it."""
    size, found = study.size, []
    for seed in size.few_seeds:
        models = {
            label(n): study.finetune(seed, start=study.short_pretrained(n), amount=size.few)
            for n in reversed(size.source_numbers)
        }
        models[SCRATCH] = study.finetune(seed, start=None, amount=size.few)
        found.append(study.evaluate(f"sources-seed{seed}", models, leads=size.few_lead_hours))
    return found


def section(study: Study) -> Section:
    """Most sources against fewer."""
    size = study.size
    scores = Scores.load([step.output for step in steps(study)])
    most = size.source_numbers[-1]
    lines = [
        f"- {most} sources against {number}: "
        f"{compare(scores, label(number), size.variables, size.few_lead_hours).sentence}."
        for number in size.source_numbers[:-1]
    ]
    labels = [*reversed(scores.models), REFERENCE]
    parts = [
        f"Fine-tuned on {size.few} of the target data, with {size.short_pretrain_steps} pretraining steps in every "
        "case: more sources mean more varied weather and fewer repetitions of each sample, at equal computation.",
        "\n".join(lines),
        "{figure}",
        *(scores_table(scores, v, labels, size.few_lead_hours) for v in size.variables),
    ]
    names = {"0": SCRATCH} | {str(n): label(n) for n in size.source_numbers}
    figure = by_category(
        {"ClimaX": {x: (scores, name) for x, name in names.items()}},
        variables=size.variables, leads=size.few_lead_hours, xlabel="pretraining sources (0: from scratch)",
    )  # fmt: skip
    return Section(text="\n\n".join(parts), figure=figure, alt="skill by number of pretraining sources")


QUESTION = Question(
    name="sources", title="Do more pretraining sources help, at equal steps?", steps=steps, section=section
)
