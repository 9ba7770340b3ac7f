"""Question: what does each change to ClimaX's exact form bring, alone and together? On the validation period."""

from climax_hpc.experiments.study.commands import Study
from climax_hpc.experiments.study.figures import changes
from climax_hpc.experiments.study.question import Question, Section
from climax_hpc.experiments.study.recipe import AS_IS, OWN, combined, evaluation, recipe
from climax_hpc.experiments.study.runner import Step
from climax_hpc.experiments.study.scores import Scores
from climax_hpc.experiments.study.select import read_choice
from climax_hpc.experiments.study.text import lead, listed, signed_percent, table, title


def steps(study: Study) -> list[Step]:
    """The evaluation of all rows and the choice."""
    return [recipe(study)]


def section(study: Study) -> Section:
    """Every row against ClimaX as it is: relative change of RMSE, with the paired interval."""
    size, scores = study.size, Scores.load([evaluation(study).output])
    choice = read_choice(recipe(study).output)[OWN]
    labels = [label for label in scores.models if label != AS_IS]
    leads = size.validation_lead_hours
    means = {h: [100 * (_mean(scores, label, size.variables, h) - 1) for label in labels] for h in leads}
    rows = [
        [
            label,
            *(signed_percent(_mean(scores, label, size.variables, h)) for h in leads),
            *(str(_cases(scores, label, study, sign)) for sign in (-1, 1)),
        ]
        for label in labels
    ]
    cases, own = len(size.variables) * len(leads), listed([lever.label for lever in size.levers if lever.own])
    parts = [
        _conditions(study),
        f"Of the {len(combined(study))} combinations with all fixed levers, **{choice['chosen']}** has the lowest "
        "score (RMSE relative to that of climatology, mean over variables and lead times): it is the recipe of all "
        f"networks in the questions that follow; only ClimaX has {own}.",
        f"RMSE relative to that of the form as it is, mean over the variables; and in how many of {cases} cases the "
        "paired interval is below (better) and above 0 (worse):",
        table(["change", *(lead(h) for h in leads), "better", "worse"], rows),
        "{figure}",
        "By variable, with the paired interval in brackets:",
        *(_table(scores, labels, variable, leads) for variable in size.variables),
    ]
    figure = changes(
        labels, {lead(h): values for h, values in means.items()}, xlabel="change of RMSE [%], mean over the variables"
    )
    return Section(text="\n\n".join(parts), figure=figure, alt="change of RMSE by lever")


def _conditions(study: Study) -> str:
    size = study.size
    names = ", ".join(lever.label for lever in size.levers)
    return (
        f"The first form is ClimaX's exact one with its own start values and AdamW, from scratch, {size.lever_steps} "
        f"steps on all target data, one seed. Changed alone and together: {names}. Pretraining of the lengths named is "
        f"on all other sources; roll-out means {size.lever_rollout_steps} further steps on roll-outs of random length, "
        "whose forecasts are then rolled out too. Scores are of the validation period "
        f"({' to '.join(size.validation_period)}), and rows differ in cost: those with pretraining or roll-outs have "
        "had more steps."
    )


def _mean(scores: Scores, label: str, variables: tuple[str, ...], hours: float) -> float:
    return scores.ratio(label, AS_IS, variables, hours)


def _cases(scores: Scores, label: str, study: Study, sign: int) -> int:
    """Cases whose whole paired interval of the change has this sign."""
    size = study.size
    found = [_change(scores, label, v, h) for v in size.variables for h in size.validation_lead_hours]
    return sum((high < 0) if sign < 0 else (low > 0) for low, high in found)


def _change(scores: Scores, label: str, variable: str, hours: float) -> tuple[float, float]:
    """Interval of the RMSE minus that of the form as it is, relative to it."""
    low, high = scores.difference(label, variable, hours)
    unit = scores.rmse(AS_IS, variable, hours)
    return -high / unit, -low / unit


def _table(scores: Scores, labels: list[str], variable: str, leads: tuple[int, ...]) -> str:
    rows = [[label, *(_cell(scores, label, variable, h) for h in leads)] for label in labels]
    return table([title(variable).split(" ")[0], *(lead(h) for h in leads)], rows)


def _cell(scores: Scores, label: str, variable: str, hours: float) -> str:
    low, high = (signed_percent(1 + end) for end in _change(scores, label, variable, hours))
    return f"{signed_percent(scores.ratio(label, AS_IS, [variable], hours))} [{low}, {high}]"


QUESTION = Question(
    name="levers", title="What does each change to ClimaX's exact form bring?", steps=steps, section=section
)
