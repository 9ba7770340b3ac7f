"""Question: does pretraining data help beyond more steps, and does another network gain as much? One seed."""

from climax_hpc.experiments.study.commands import Study
from climax_hpc.experiments.study.comparison import compare
from climax_hpc.experiments.study.figures import skill_by_lead
from climax_hpc.experiments.study.question import Question, Section
from climax_hpc.experiments.study.runner import Step
from climax_hpc.experiments.study.scores import Scores
from climax_hpc.experiments.study.sizes import PRETRAINED, UNET, ComparedNetwork
from climax_hpc.experiments.study.text import scores_table

LONG = "ClimaX (from scratch, all steps on the target)"


def steps(study: Study) -> list[Step]:
    """The evaluation of the controls."""
    size, seed = study.size, study.size.few_seeds[0]
    network = rival(study)
    sources, more = size.source_numbers[-1], size.short_pretrain_steps
    own_start, other_start = study.short_pretrained(sources), study.short_pretrained(sources, network)
    models = {
        PRETRAINED: study.finetune(seed, start=own_start, amount=size.few),
        LONG: study.finetune(seed, start=None, amount=size.few, extra_steps=more),
        f"{network.label} (pretrained)": study.finetune(seed, start=other_start, amount=size.few, network=network),
        f"{network.label} (from scratch, all steps on the target)": study.finetune(
            seed, start=None, amount=size.few, network=network, extra_steps=more
        ),
    }
    return [study.evaluate("controls", models, leads=size.few_lead_hours)]


def rival(study: Study) -> ComparedNetwork:
    """The network compared with ClimaX: the U-Net if present, else the first."""
    networks = study.size.networks
    return next((one for one in networks if one.label == UNET.label), networks[0])


def section(study: Study) -> Section:
    """The pretrained ClimaX against each control."""
    size = study.size
    scores = Scores.load([step.output for step in steps(study)])
    lines = [
        f"- against {other}: {compare(scores, other, size.variables, size.few_lead_hours).sentence}."
        for other in scores.models[1:]
    ]
    parts = [
        f"One seed, {size.few} of the target data. Pretrained: {size.short_pretrain_steps} steps on the other sources "
        f"and {size.few_steps} on the target; from scratch: all {size.short_pretrain_steps + size.few_steps} steps on "
        "the target. All networks are trained for the same number of steps; the pretrained ones have seen more data.",
        f"{PRETRAINED} compared with the others:\n\n" + "\n".join(lines),
        "{figure}",
        *(scores_table(scores, v, scores.models, scores.lead_hours) for v in size.variables),
    ]
    figure = skill_by_lead(scores, size.variables)
    return Section(text="\n\n".join(parts), figure=figure, alt="RMSE of the controls by lead time")


QUESTION = Question(
    name="controls",
    title="Is it the pretraining data, the number of steps, or the network?",
    steps=steps,
    section=section,
)
