"""Question: does pretraining on forecasts help downscaling? From the coarse-grained target to its own grid."""

from functools import cache

from climax_hpc.data_prep.simulation.driver_settings import drs_member
from climax_hpc.experiments.study.commands import Study, make_words
from climax_hpc.experiments.study.comparison import compare
from climax_hpc.experiments.study.figures import bars
from climax_hpc.experiments.study.networks import PRETRAINED, SCRATCH, ComparedNetwork
from climax_hpc.experiments.study.question import Question, Section
from climax_hpc.experiments.study.rates import pretrained
from climax_hpc.experiments.study.runner import Step
from climax_hpc.experiments.study.scores import Scores
from climax_hpc.experiments.study.text import table, title
from climax_hpc.experiments.study.trainings import chosen_config
from climax_hpc.experiments.study.verdicts import VerdictRow, from_scratch, rows_of

_COARSE_DEG, _LEAD = 11.25, 0.0  # twice the grid spacing of the networks; downscaling has no lead time
_CORRECTED = "bilinear, bias-corrected"
_PAIRS = 1100  # of the test period and of a quarter of the training data in the full size; for the time estimate


@cache
def pairs(study: Study) -> Step:
    """The target on both grids, paired by time step."""
    member = drs_member(study.size.target)
    source = "_".join(member.parts[-3:])
    folder = study.folder / "downscaling"
    settings = {
        "input": study.gcm,
        "output": folder / "coarse",
        "sources": [source],
        "grid_spacing_deg": _COARSE_DEG,
        "train_period": list(study.size.train_period),
    }
    coarse = Step(
        name="downscaling/pack", words=make_words("pack", settings), output=folder / "coarse",
        needs=tuple(study.simulations), expected_seconds=20, resumable=True,
    )  # fmt: skip
    named: dict[str, object] = {
        "coarse": folder / "coarse",
        "fine": study.dataset,
        "output": folder / "pairs.json",
        "sources": {source: source},
    }
    return Step(
        name="downscaling/pair", words=make_words("pair", named), output=folder / "pairs.json",
        needs=(coarse, study.pack), expected_seconds=8,
    )  # fmt: skip


@cache
def evaluations(study: Study, first: str = PRETRAINED) -> list[Step]:
    """One evaluation per seed: both forms of ClimaX from the forecasting checkpoint and from scratch; the others.

    `first`: label of the network that all are compared with.
    """
    size, data, found = study.size, pairs(study), []
    for seed in size.few_seeds:
        models = {}
        for network in size.networks:
            if network in (size.own, size.exact):
                models[network.pretrained] = _training(study, network, seed, pretrained(study, network))
            models[network.scratch] = _training(study, network, seed, None)
        # Interpolation is corrected on the data that the networks are trained on.
        more = {"task": "downscaling", "dataset": data.output, "train_period": list(size.amounts[size.few])}
        name = f"{'downscaling' if first == PRETRAINED else 'downscaling-from-scratch'}-seed{seed}"
        ordered = {first: models[first], **models}
        found.append(study.evaluate(name, ordered, period=size.test_period, forecasts=_PAIRS, more=more))
    return found


def steps(study: Study) -> list[Step]:
    """Comparisons with the pretrained ClimaX, and with the one from scratch."""
    return [*evaluations(study), *evaluations(study, SCRATCH)]


def _training(study: Study, network: ComparedNetwork, seed: int, start: Step | None) -> Step:
    size, data = study.size, pairs(study)
    config, choice = chosen_config(study, network, after=None, task=True)  # what is learnt is new, so are the rates
    settings = network.downscaling | {
        "data.dataset": data.output,
        "data.period": list(size.amounts[size.few]),
        "data.random_roll": False,
        "data.random_flip": False,
        "task": "downscaling",
        "train.steps": size.downscaling_steps,
        "train.seed": seed,
    }
    if start:
        settings["transfer"] = True  # of all weights that do not depend on what differs: patch size, variables
    name = f"downscaling/{network.slug}-{'pretrained' if start else 'scratch'}-seed{seed}"
    return study.training(
        "finetune", name, settings, (data, choice), network=network, start=start,
        config=config, slower=network.downscaling_slower,
    )  # fmt: skip


def verdicts(study: Study) -> list[VerdictRow]:
    """ClimaX against all others, pretrained and from scratch."""
    questions = {"downscaling": PRETRAINED, from_scratch("downscaling"): SCRATCH}
    return [
        row
        for question, first in questions.items()
        for row in rows_of(question, _scores(study, first), study.size.variables, [_LEAD], has_leads=False)
    ]


def _scores(study: Study, first: str = PRETRAINED) -> Scores:
    return Scores.load([step.output for step in evaluations(study, first)])


def section(study: Study) -> Section:
    """All networks against interpolation."""
    size, scores = study.size, _scores(study)
    lines = [
        f"- against {other}: {compare(scores, other, size.variables, [_LEAD]).sentence}."
        for other in scores.labels
        if other != PRETRAINED
    ]
    rows = [[label, *(scores.cell(label, v, _LEAD) for v in size.variables)] for label in scores.labels]
    parts = [
        f"{size.target} is coarse-grained to {_COARSE_DEG:g}° and downscaled to 5.625°, each time step separately. "
        f"Trained on {size.few} of the target data for {size.downscaling_steps} steps, with the optimiser and the "
        "rates of forecasts from scratch. The pretrained networks start from the forecasting checkpoint; the bias "
        f"correction is fitted on the same part of the data. {_sizes(study)}",
        f"{PRETRAINED} compared with the others:\n\n" + "\n".join(lines),
        "{figure}",
        table(["RMSE", *(title(v) for v in size.variables)], rows),
    ]

    def against_interpolation(label: str, variable: str) -> tuple[float, float, float]:
        unit = scores.rmse(_CORRECTED, variable, _LEAD)
        low, high = scores.interval(label, variable, _LEAD)
        return scores.rmse(label, variable, _LEAD) / unit, low / unit, high / unit

    ylabel = f"RMSE / that of {_CORRECTED}"
    figure = bars(scores.labels, size.variables, against_interpolation, ylabel=ylabel, sharey=True)
    return Section(text="\n\n".join(parts), figure=figure, alt="RMSE of downscaled fields")


def _sizes(study: Study) -> str:
    """What the first network changes for this task."""
    changed = ", ".join(f"`{key}: {value}`" for key, value in study.size.own.downscaling.items())
    return f"{study.size.own.label} here has {changed}; the weights that fit are transferred." if changed else ""


QUESTION = Question(
    name="downscaling", title="Does a pretrained model downscale better?", steps=steps, section=section,
    verdicts=verdicts,
)  # fmt: skip
