"""Question: do more pretraining sources help, at equal steps?"""

from functools import cache

from climax_hpc.experiments.study.commands import Study
from climax_hpc.experiments.study.comparison import compare
from climax_hpc.experiments.study.figures import by_category
from climax_hpc.experiments.study.networks import SCRATCH, VIT, ComparedNetwork
from climax_hpc.experiments.study.question import Question, Section
from climax_hpc.experiments.study.runner import Step
from climax_hpc.experiments.study.scores import Scores
from climax_hpc.experiments.study.sizes import REFERENCE
from climax_hpc.experiments.study.text import scores_table
from climax_hpc.experiments.study.trainings import finetune, short_pretrained
from climax_hpc.experiments.study.verdicts import VerdictRow, rows_of


def label(number: int, network: ComparedNetwork | None = None) -> str:
    """Label of a network (None: the first) pretrained on that many sources."""
    return f"{network.label}, pretrained on {number}" if network else f"pretrained on {number}"


@cache
def evaluations(study: Study) -> list[Step]:
    """One evaluation per seed; the model with most sources first, because the others are compared with it."""
    size, found, most = study.size, [], study.size.source_numbers[-1]
    for seed in size.few_seeds:
        models = {label(n): _trained(study, seed, n, size.own) for n in reversed(size.source_numbers)}
        models[SCRATCH] = finetune(study, seed, size.own, start=None, amount=size.few)
        models[label(most, size.exact)] = _trained(study, seed, most, size.exact)
        found.append(
            study.test(f"sources-seed{seed}", models, leads=size.few_lead_hours, every=size.few_start_every_hours)
        )
    return found


def _trained(study: Study, seed: int, sources: int, network: ComparedNetwork) -> Step:
    start = short_pretrained(study, sources, network)
    return finetune(study, seed, network, start=start, amount=study.size.few)


def verdicts(study: Study) -> list[VerdictRow]:
    """The model pretrained on most sources against the others."""
    return rows_of("sources", _scores(study), study.size.variables, study.size.few_lead_hours)


def _scores(study: Study) -> Scores:
    return Scores.load([step.output for step in evaluations(study)])


def section(study: Study) -> Section:
    """Most sources against fewer."""
    size, scores = study.size, _scores(study)
    most = size.source_numbers[-1]
    lines = [
        f"- {most} sources against {number}: "
        f"{compare(scores, label(number), size.variables, size.few_lead_hours).sentence}."
        for number in size.source_numbers[:-1]
    ]
    labels = [*reversed(scores.models), REFERENCE]
    parts = [
        f"Fine-tuned on {size.few} of the target data, with {size.short_pretrain_steps} pretraining steps in every "
        "case: more sources mean more varied weather and fewer repetitions of each sample, at equal computation. "
        f"{VIT.label} is ClimaX's exact form.",
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
    name="sources", title="Do more pretraining sources help, at equal steps?", steps=evaluations, section=section,
    verdicts=verdicts,
)  # fmt: skip
