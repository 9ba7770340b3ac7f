"""The weights in this package: small enough, with a card of their own numbers, and as good as it says."""

import json
from pathlib import Path
from typing import Any

import pytest

from climax_hpc.checkpoint import packaged
from climax_hpc.checkpoint.format import load_checkpoint
from climax_hpc.cli import run
from climax_hpc.config.inference import EvaluateConfig
from climax_hpc.evaluation.evaluate import evaluate
from climax_hpc.evaluation.scorecard import Scorecard
from climax_hpc.experiments.weights.card import card_text
from climax_hpc.experiments.weights.recipe import NAME

LIMIT = 8_000_000
SHIPPED = [name for name in packaged.packaged_names() if name == NAME]


def read(name: str, file: str) -> Any:
    return json.loads((packaged.FOLDER / name / file).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SHIPPED)
def test_they_are_small(name: str) -> None:
    assert sum(path.stat().st_size for path in (packaged.FOLDER / name).iterdir()) < LIMIT


@pytest.mark.parametrize("name", SHIPPED)
def test_the_card_is_written_from_the_scores_and_the_log(name: str) -> None:
    weights = load_checkpoint(packaged.FOLDER / name / packaged.MODEL)
    scores, training = read(name, packaged.SCORES), read(name, packaged.TRAINING)
    assert scores["weights_sha256"] == weights.weights_sha256
    assert training["log"][-1]["step"] == weights.metadata.step
    text = card_text(
        name,
        scores,
        training,
        weights.metadata,
        parameters=sum(tensor.numel() for tensor in weights.weights.values()),
        size=weights.path.stat().st_size,
    )
    assert (packaged.FOLDER / name / packaged.CARD).read_text(encoding="utf-8") == text


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_the_scores_on_the_sample_come_out_again(name: str, tmp_path: Path) -> None:
    run(["pack", "--config", "demo_pack", "--output", str(tmp_path / "data")])
    stated = read(name, packaged.SCORES)["evaluations"]["the packaged sample"]
    evaluate(
        EvaluateConfig(
            run_folder=str(tmp_path / "scored"), models={name: name}, dataset=str(tmp_path / "data"), source="JCM-C",
            period=tuple(stated["period"]), train_period=tuple(stated["train_period"]), lead_hours=(24.0,),
            map_lead_hours=24, resamples=0, spectra=False, threads=1,
        )
    )  # fmt: skip
    found, place = Scorecard.load(tmp_path / "scored"), stated["lead_hours"].index(24)
    for variable, labels in stated["rmse"].items():
        for label in (name, "damped persistence"):
            assert found.value(label, variable, 24) == pytest.approx(labels[label][place], rel=1e-3)
