"""What the run and the evaluations of the packaged weights found, as scores.json and training.json hold it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from climax_hpc.config.yaml_checks import read_settings
from climax_hpc.data.dataset import DataSet
from climax_hpc.errors import UserError
from climax_hpc.evaluation.scorecard import Scorecard
from climax_hpc.experiments.study.runner import Step, with_needs
from climax_hpc.utils.files import read_json

MOST_ROWS = 200
"""Lines of the log of the training that are kept."""


def scores_of(evaluations: Mapping[str, Path]) -> dict[str, Any]:
    """Title -> folder of an evaluation of one model, as the content of scores.json.

    Raises:
        UserError: an evaluation is missing, or not all are of the same weights.
    """
    cards = {title: Scorecard.load(folder) for title, folder in evaluations.items()}
    hashes = {card.content["models"][card.models[0]]["weights_sha256"] for card in cards.values()}
    if len(hashes) != 1:
        raise UserError(f"the evaluations in {', '.join(map(str, evaluations.values()))} are of different weights")
    return {"weights_sha256": hashes.pop(), "evaluations": {title: _table(card) for title, card in cards.items()}}


def _table(card: Scorecard) -> dict[str, Any]:
    settings = card.content["settings"]
    labels = [*card.models, *card.baselines]
    return {
        "source": card.content["source"],
        "period": settings["period"],
        "train_period": settings["train_period"],
        "forecasts": sum(card.content["pairs"].values()),
        "lead_hours": card.lead_hours,
        "models": card.models,
        "baselines": card.baselines,
        "rmse": {v: {label: [card.value(label, v, h) for h in card.lead_hours] for label in labels}
                 for v in card.variables},
        "interval": {v: {label: [card.interval(label, v, h) for h in card.lead_hours] for label in labels}
                     for v in card.variables},
        "not_better": {v: [h for h in card.lead_hours if card.unbeaten_baselines(card.models[0], v, h)]
                       for v in card.variables},
    }  # fmt: skip


def training_of(run: Path, steps: Sequence[Step]) -> dict[str, Any]:
    """The content of training.json: settings, data, time and losses of a run, and the commands of all steps.

    Raises:
        UserError: the folder holds no run.
    """
    settings = read_settings(run / "config.yaml")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [row for row in rows if "loss" in row]
    samples = settings["data"]["micro_batch_size"] * settings["data"]["micro_batches_per_step"]
    held = {source.name: sum(s.steps for s in source.segments) for source in _sources(settings)}
    return {
        "settings": settings,
        "provenance": read_json(run / "provenance.json", "the provenance of a climax_hpc run"),
        "states": held,
        "samples": samples * losses[-1]["step"],
        "hours": _seconds(losses, samples) / 3600,
        "log": _thinned(losses),
        "validation": _thinned([row for row in rows if "validation_loss" in row]),
        "commands": [step.command for step in with_needs(steps)],
    }


def _sources(settings: Mapping[str, Any]) -> Any:
    return DataSet(settings["data"]["dataset"]).select(settings["data"]["sources"])


def _seconds(losses: Sequence[Mapping[str, Any]], samples_per_step: int) -> float:
    """Time spent in steps: of a run that was interrupted and resumed, without what was done twice."""
    before, seconds = 0, 0.0
    for row in losses:
        seconds += (row["step"] - before) * samples_per_step / row["samples_per_second"]
        before = row["step"]
    return seconds


def _thinned(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most MOST_ROWS of the rows, evenly, with the last."""
    every = -(-len(rows) // MOST_ROWS) if rows else 1
    return [row for number, row in enumerate(rows, start=1) if number % every == 0 or number == len(rows)]
