"""Question: does pretraining on forecasts help climate projection? Scenarios from an energy balance model."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from climax_hpc.evaluation.output import EVALUATION_FILE
from climax_hpc.experiments.study.commands import Study, make_words
from climax_hpc.experiments.study.figures import bars
from climax_hpc.experiments.study.networks import PRETRAINED, SCRATCH, ComparedNetwork
from climax_hpc.experiments.study.question import Question, Section
from climax_hpc.experiments.study.rates import pretrained
from climax_hpc.experiments.study.runner import Step
from climax_hpc.experiments.study.scores import Interval, hull
from climax_hpc.experiments.study.text import table
from climax_hpc.experiments.study.verdicts import VerdictRow, from_scratch
from climax_hpc.fields.variables import lookup
from climax_hpc.utils.files import read_json

FROZEN = "ClimaX (pretrained, blocks frozen)"
_NETWORK = "study_projection"
_YEARS_OF_TEST = ("2080", "2100")
_SECONDS_OF_TEN_YEARS = 4.0  # time per step relative to a forecasting step: ten inputs per sample
_SCORE = "total"


@cache
def scenarios(study: Study) -> Step:
    """All experiments, packed."""
    folder = study.folder / "projection"
    made = Step(
        name="projection/scenarios",
        words=("climax_hpc.data_prep.simulation.scenarios", str(folder / "scenarios")),
        output=folder / "scenarios",
        expected_seconds=30,
    )
    settings = {"input": folder / "scenarios", "output": folder / "data"}
    return Step(
        name="projection/pack", words=make_words("pack", settings, config="climatebench"), output=folder / "data",
        needs=(made,), expected_seconds=30, resumable=True,
    )  # fmt: skip


@cache
def evaluations(study: Study, first: str = PRETRAINED) -> list[Step]:
    """One evaluation per seed: both forms of ClimaX, pretrained and from scratch.

    `first`: label of the network that all are compared with.
    """
    data, found = scenarios(study), []
    for seed in study.size.few_seeds:
        models = {}
        for network in (study.size.own, study.size.exact):
            models[network.pretrained] = _training(study, network, "pretrained", seed)
            if network is study.size.own:
                models[FROZEN] = _training(study, network, "frozen", seed)
            models[network.scratch] = _training(study, network, "scratch", seed)
        more = {
            "task": "projection",
            "dataset": data.output,
            "source": "NorESM2-LM_ssp245_mean",
            "train_period": ["1850", "2100"],
            "variables": None,
        }
        name = f"{'projection' if first == PRETRAINED else 'projection-from-scratch'}-seed{seed}"
        ordered = {first: models[first], **models}
        found.append(study.evaluate(name, ordered, period=_YEARS_OF_TEST, forecasts=20, more=more))
    return found


def steps(study: Study) -> list[Step]:
    """Comparisons with the pretrained ClimaX, and with the one from scratch."""
    return [*evaluations(study), *evaluations(study, SCRATCH)]


def _training(study: Study, network: ComparedNetwork, kind: str, seed: int) -> Step:
    data, start = scenarios(study), None if kind == "scratch" else pretrained(study, network)
    settings: dict[str, object] = {
        "data.dataset": data.output,
        "train.steps": study.size.projection_steps,
        "train.seed": seed,
    }
    if start:
        settings |= {"transfer": True, "frozen": kind == "frozen"}
    return study.training(
        "finetune", f"projection/{network.slug}-{kind}-seed{seed}", settings, (data,),
        network=network, start=start, config=_NETWORK, slower=_SECONDS_OF_TEN_YEARS,
    )  # fmt: skip


def verdicts(study: Study) -> list[VerdictRow]:
    """ClimaX against all others, pretrained and from scratch."""
    return [
        *_verdicts("projection", _cards(study), PRETRAINED),
        *_verdicts(from_scratch("projection"), _cards(study, SCRATCH), SCRATCH),
    ]


def _verdicts(question: str, cards: Sequence[dict[str, Any]], first: str) -> list[VerdictRow]:
    labels, variables = list(cards[0]["scores"]), list(cards[0]["variables"])
    return [
        VerdictRow(
            question=question,
            against=other,
            variable=variable,
            lead_hours=None,
            verdict="ahead" if low > 0 else "lost" if high < 0 else "open",
            ratio=_value(cards, first, variable) / _value(cards, other, variable),
        )
        for other in labels
        if other != first
        for variable in variables
        for low, high in [_difference(cards, other, variable)]
    ]


def _cards(study: Study, first: str = PRETRAINED) -> list[dict[str, Any]]:
    return [
        read_json(step.output / EVALUATION_FILE, "an evaluation of projections; run the study again")
        for step in evaluations(study, first)
    ]


def section(study: Study) -> Section:
    """Scores of the projections, with pattern scaling and climatology."""
    size, cards = study.size, _cards(study)
    labels, variables = list(cards[0]["scores"]), list(cards[0]["variables"])
    rows = [[label, *(_cell(cards, label, v, labels) for v in variables)] for label in labels]
    parts = [
        "Scenarios from an energy balance model (`data_prep/simulation/energy_balance.py`), in the layout of "
        f"ClimateBench. Trained on six experiments for {size.projection_steps} steps, tested on ssp245, "
        f"{' to '.join(_YEARS_OF_TEST)}. Score: total NRMSE (spatial + 5 · global), lower is better; mean of "
        f"{len(cards)} seeds, interval over test years and seeds. The pretrained networks take the blocks from the "
        "forecasting checkpoint; emissions are new variables, so their tokens and the head are initialised from "
        f"scratch. {study.size.exact.label} is ClimaX's exact form.",
        f"{PRETRAINED} compared with the others:\n\n"
        + "\n".join(_line(cards, other, variables) for other in labels if other != PRETRAINED),
        "{figure}",
        table(["NRMSE", *(_short(v) for v in variables)], rows),
    ]
    figure = bars(
        labels, variables, lambda label, v: (_value(cards, label, v), *_interval(cards, label, v)), ylabel="NRMSE"
    )
    return Section(text="\n\n".join(parts), figure=figure, alt="NRMSE of projections")


def _value(cards: Sequence[dict[str, Any]], label: str, variable: str) -> float:
    return float(np.mean([card["scores"][label][variable][_SCORE] for card in cards]))


def _interval(cards: Sequence[dict[str, Any]], label: str, variable: str) -> Interval:
    return hull([card["intervals"][label][variable][_SCORE] for card in cards])


def _cell(cards: Sequence[dict[str, Any]], label: str, variable: str, labels: Sequence[str]) -> str:
    low, high = _interval(cards, label, variable)
    value = _value(cards, label, variable)
    best = value <= min(_value(cards, one, variable) for one in labels)
    return f"{f'**{value:.3f}**' if best else f'{value:.3f}'} [{low:.3f}, {high:.3f}]"


def _difference(cards: Sequence[dict[str, Any]], other: str, variable: str) -> Interval:
    """Of the other's score minus that of the first, over the seeds."""
    return hull([card["comparison"]["differences"][other][variable]["interval"] for card in cards])


def _line(cards: Sequence[dict[str, Any]], other: str, variables: Sequence[str]) -> str:
    """Number of variables in which the pretrained model is better or worse, by the paired intervals of all seeds."""
    differences = [_difference(cards, other, v) for v in variables]
    ahead, behind = sum(low > 0 for low, _ in differences), sum(high < 0 for _, high in differences)
    apart = sum(_interval(cards, PRETRAINED, v)[1] < _interval(cards, other, v)[0] for v in variables)
    return (
        f"- against {other}: better in {ahead} of {len(variables)} variables (paired intervals; in {apart} the "
        f"intervals of the scores do not overlap), worse in {behind}."
    )


def _short(variable: str) -> str:
    return lookup(variable).short_name


QUESTION = Question(
    name="projection", title="Does a pretrained model project climate better?", steps=steps, section=section,
    verdicts=verdicts,
)  # fmt: skip
