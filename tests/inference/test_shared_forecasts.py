"""Forecasts that two ranks make together (`sequence_parallel`) are those of one: evaluation, prediction, refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from safetensors.torch import load_file, save_file

from climax_hpc.cli import run
from climax_hpc.config.inference import EvaluateConfig, PredictConfig
from climax_hpc.errors import UserError
from climax_hpc.inference.predict import predict
from climax_hpc.utils.files import sha256, write_json

from ..synthetic import write_checkpoint
from ..training.processes import run_commands

pytestmark = pytest.mark.slow


def loud(checkpoint: Path) -> str:
    """The checkpoint with a last layer that is not divided by a thousand: its network counts."""
    path, sums = checkpoint / "weights.safetensors", checkpoint / "SHA256SUMS.json"
    weights = load_file(path)
    last = max(name for name in weights if name.startswith("head.") and name.endswith("weight"))
    save_file(weights | {last: weights[last] * 1000}, path)
    write_json(sums, json.loads(sums.read_text()) | {path.name: sha256(path)})
    return str(checkpoint)


def with_noise(checkpoint: str) -> str:
    """The checkpoint with noise that moves its members apart."""
    path, sums = Path(checkpoint) / "weights.safetensors", Path(checkpoint) / "SHA256SUMS.json"
    weights = load_file(path)
    save_file(weights | {name: torch.ones_like(w) for name, w in weights.items() if "noise" in name}, path)
    write_json(sums, json.loads(sums.read_text()) | {path.name: sha256(path)})
    return checkpoint


@pytest.fixture(scope="module")
def settings(make_dataset: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Of an evaluation with attention and convolutions, and a prediction with members of a network with noise too."""
    folder, dataset = tmp_path_factory.mktemp("shared"), make_dataset(shape=(16, 32))
    conv = {"patch": 2, "blocks": "conv", "levels": 2}
    models = {
        "vit": loud(write_checkpoint(folder / "vit", dataset)),
        "conv": loud(write_checkpoint(folder / "conv", dataset, seed=1, **conv)),
    }
    noisy = with_noise(loud(write_checkpoint(folder / "noisy", dataset, seed=2, noise_dim=3)))
    evaluation = {
        "run_folder": str(folder / "scores"), "models": models, "dataset": str(dataset), "source": "JCM-C",
        "period": ["2004", "2004"], "train_period": ["2001", "2003"], "lead_hours": [6, 24], "map_lead_hours": 24,
        "resamples": 0, "batch_size": 8, "rollout_hours": {"conv": 6}, "start_every_hours": 24,
    }  # fmt: skip
    prediction = {
        "models": models | {"noisy": noisy}, "input": str(dataset), "output": str(folder / "forecasts"),
        "period": ["2004", "2004"], "lead_hours": [6, 24], "start_every_hours": 96, "members": 2,
        "statistics": ["mean", "spread"], "exceedance": {"2m_temperature": [280.0]},
    }  # fmt: skip
    return {"evaluate": evaluation, "predict": prediction}


def command(verb: str, settings: dict[str, Any], folder: Path) -> list[str]:
    """Words of a command with these settings."""
    path = folder / f"{verb}{len(list(folder.glob('*.yaml')))}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return [verb, "--config", str(path)]


def test_two_ranks_that_share_forecasts_make_those_of_one(settings: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    shared = {"sequence_parallel": 2}
    evaluation, prediction = settings["evaluate"], settings["predict"]
    two_scores, two_forecasts = tmp_path / "scores", tmp_path / "forecasts"
    statuses, output, errors = run_commands(
        command("evaluate", evaluation | shared | {"run_folder": str(two_scores)}, tmp_path),
        command("predict", prediction | shared | {"output": str(two_forecasts)}, tmp_path),
        ranks=2,
        folder=tmp_path,
    )
    assert statuses == [0, 0], errors[-2000:]
    run(command("evaluate", evaluation, tmp_path))
    run(command("predict", prediction, tmp_path))
    alone, both = (
        json.loads((Path(folder) / "evaluation.json").read_text()) for folder in (evaluation["run_folder"], two_scores)
    )
    for label in ("vit", "conv"):
        for variable, scores in alone["scores"][label].items():
            for lead, values in scores.items():
                assert both["scores"][label][variable][lead] == pytest.approx(values, rel=1e-5, abs=1e-6)
    assert alone["scores"]["vit"] != alone["scores"]["conv"]
    maps = [np.load(Path(folder) / "maps.npz")["forecast"] for folder in (evaluation["run_folder"], two_scores)]
    np.testing.assert_allclose(maps[1], maps[0], rtol=1e-5)
    files = sorted(path.name for path in Path(prediction["output"]).glob("*.nc"))
    assert files == sorted(path.name for path in two_forecasts.glob("*.nc"))
    assert len(files) > 2
    for name in files:
        with xr.open_dataset(Path(prediction["output"]) / name) as one, xr.open_dataset(two_forecasts / name) as two:
            for variable in map(str, one.data_vars):
                # A spread is a difference of members, which are rounded to float32: relative to them it is 1e-7.
                atol = 1e-6 * float(abs(one[variable.removesuffix("_spread")]).max())
                if variable.startswith("probability_of"):
                    assert (two[variable] != one[variable]).mean() < 0.01, "members at the threshold may be rounded"
                else:
                    np.testing.assert_allclose(two[variable], one[variable], rtol=1e-5, atol=max(atol, 1e-4))
            assert np.abs(one.geopotential_500[:, 0] - one.geopotential_500[:, 1]).max() > 10
            assert np.abs(one.geopotential_500[:, 2] - one.geopotential_500[:, 3]).max() > 10
    assert output.count("4 members") == 1


def test_what_cannot_be_shared_is_refused_in_one_line(settings: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^sequence_parallel = 2: 1 rank cannot form groups of 2: start a multiple"):
        run(command("evaluate", settings["evaluate"] | {"sequence_parallel": 2}, tmp_path))
    with pytest.raises(UserError, match=r"^sequence_parallel = 2: start as many ranks"):
        predict(PredictConfig(**settings["predict"] | {"sequence_parallel": 2}))
    with pytest.raises(UserError, match=r"^sequence_parallel = 4 does not divide model.heads = 2"):
        predict(PredictConfig(**settings["predict"] | {"sequence_parallel": 4}))
    for config, name in ((PredictConfig, "predict"), (EvaluateConfig, "evaluate")):
        with pytest.raises(UserError, match="sequence_parallel must be at least 1"):
            config(**settings[name] | {"sequence_parallel": 0})
    with pytest.raises(UserError, match=r"sequence_parallel"):
        run(command("predict", settings["predict"] | {"sequence_parallel": 2, "task": "projection"}, tmp_path))
