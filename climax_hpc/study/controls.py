"""Question: is it the pretraining, or only its arithmetic; and would another network gain as much by it? One seed."""

from climax_hpc.study.commands import Study
from climax_hpc.study.contrast import contrast
from climax_hpc.study.figures import skill_by_lead
from climax_hpc.study.question import Question, Section
from climax_hpc.study.runner import Step
from climax_hpc.study.scores import Scores
from climax_hpc.study.sizes import PRETRAINED, SCRATCH
from climax_hpc.study.text import lead, table, title

LONG = f"{SCRATCH}, steps of pretraining added"


def steps(study: Study) -> list[Step]:
    """The evaluation of the controls."""
    size, seed = study.size, study.size.seeds[0]
    network = size.networks[0] if len(size.networks) == 1 else size.networks[1]
    other = study.pretrain(size.source_numbers[-1], network)
    models = {
        PRETRAINED: study.finetune(seed, start=study.pretrained),
        LONG: study.finetune(seed, start=None, extra_steps=size.pretrain_steps),
        f"{network.label} (pretrained)": study.finetune(seed, start=other, network=network),
        network.label: study.finetune(seed, start=None, network=network),
    }
    return [study.evaluate("controls", models, period=size.short_test_period, leads=size.few_lead_hours, forecasts=600)]


def section(study: Study) -> Section:
    """The pretrained ClimaX against each control."""
    size = study.size
    scores = Scores.load([step.output for step in steps(study)])
    lines = [
        f"- against {other}: {contrast(scores, other, size.variables, size.few_lead_hours).sentence}."
        for other in scores.models[1:]
    ]
    parts = [
        f"One seed. “{LONG}” trains on the target alone for as many steps as pretraining and fine-tuning have "
        f"together ({size.pretrain_steps} + {size.finetune_steps}); the other network is pretrained and fine-tuned as "
        "ClimaX is.",
        f"{PRETRAINED}\n\n" + "\n".join(lines),
        "{figure}",
        *(_table(scores, v) for v in size.variables),
    ]
    figure = skill_by_lead(scores, size.variables)
    return Section(text="\n\n".join(parts), figure=figure, alt="RMSE of the controls by lead time")


def _table(scores: Scores, variable: str) -> str:
    rows = [[name, *(scores.cell(name, variable, h) for h in scores.lead_hours)] for name in scores.models]
    return table([title(variable), *(lead(h) for h in scores.lead_hours)], rows)


QUESTION = Question(
    name="controls", title="Is it the pretraining, its arithmetic, or the network?", steps=steps, section=section
)
