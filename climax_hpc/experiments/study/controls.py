"""Question: does pretraining data help beyond more steps? One seed."""

from functools import cache

from climax_hpc.experiments.study.commands import Study
from climax_hpc.experiments.study.comparison import compare
from climax_hpc.experiments.study.figures import skill_by_lead
from climax_hpc.experiments.study.networks import PRETRAINED, ComparedNetwork
from climax_hpc.experiments.study.question import Question, Section
from climax_hpc.experiments.study.runner import Step
from climax_hpc.experiments.study.scores import Scores
from climax_hpc.experiments.study.text import scores_table
from climax_hpc.experiments.study.trainings import finetune, short_pretrained
from climax_hpc.experiments.study.verdicts import VerdictRow, rows_of


def long_label(network: ComparedNetwork) -> str:
    """Label of a network that makes all steps on the target."""
    return f"{network.label} (from scratch, all steps on the target)"


@cache
def evaluation(study: Study) -> Step:
    """The pretrained ClimaX, and both forms of ClimaX with all steps on the target."""
    size, seed = study.size, study.size.few_seeds[0]
    start = short_pretrained(study, size.source_numbers[-1], size.own)
    models = {PRETRAINED: finetune(study, seed, size.own, start=start, amount=size.few)}
    for network in (size.own, size.exact):
        models[long_label(network)] = finetune(
            study, seed, network, start=None, amount=size.few, extra_steps=size.short_pretrain_steps
        )
    return study.test("controls", models, leads=size.few_lead_hours, every=size.few_start_every_hours)


def verdicts(study: Study) -> list[VerdictRow]:
    """The pretrained ClimaX against each control."""
    scores = Scores.load([evaluation(study).output])
    return rows_of("controls", scores, study.size.variables, study.size.few_lead_hours)


def section(study: Study) -> Section:
    """The pretrained ClimaX against each control."""
    size = study.size
    scores = Scores.load([evaluation(study).output])
    lines = [
        f"- against {other}: {compare(scores, other, size.variables, size.few_lead_hours).sentence}."
        for other in scores.models[1:]
    ]
    parts = [
        f"One seed, {size.few} of the target data. Pretrained: {size.short_pretrain_steps} steps on the other sources "
        f"and {size.few_steps} on the target; from scratch: all {size.short_pretrain_steps + size.few_steps} steps on "
        "the target. All networks are trained for the same number of steps; the pretrained one has seen more data.",
        f"{PRETRAINED} compared with the others:\n\n" + "\n".join(lines),
        "{figure}",
        *(scores_table(scores, v, scores.models, scores.lead_hours) for v in size.variables),
    ]
    figure = skill_by_lead(scores, size.variables)
    return Section(text="\n\n".join(parts), figure=figure, alt="RMSE of the controls by lead time")


QUESTION = Question(
    name="controls", title="Is it the pretraining data or the number of steps?",
    steps=lambda study: [evaluation(study)], section=section, verdicts=verdicts,
)  # fmt: skip
