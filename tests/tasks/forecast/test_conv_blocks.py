"""A network with `conv` blocks through the verbs: train, region, other grid and variables, roll-out, prediction."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from climax_hpc.checkpoint.format import load_checkpoint
from climax_hpc.config.inference import PredictConfig
from climax_hpc.evaluation.evaluate import evaluate
from climax_hpc.inference.predict import predict

from .forecasts import CHANNELS, MODEL, Train, evaluation, refused, trainer

CONV: dict[str, Any] = MODEL | {"blocks": "conv", "levels": 2, "decoder_depth": 0}


@pytest.fixture(scope="module")
def dataset(make_dataset: Callable[..., Path]) -> Path:
    return make_dataset(shape=(16, 32), channels=CHANNELS, dtype="float32")


@pytest.fixture(scope="module")
def train(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    return trainer(dataset, tmp_path_factory.mktemp("conv"))


@pytest.fixture(scope="module")
def globe(train: Train) -> Path:
    return train("globe", "pretrain", model=CONV, train={"ema_decay": 0.9})


def test_a_region_is_fine_tuned_evaluated_and_predicted(
    train: Train, globe: Path, dataset: Path, tmp_path: Path
) -> None:
    """NorthAmerica in whole cells of the coarsest grid, 8 × 8 cells of 11.25°."""
    run = train("regional", checkpoint=str(globe), model=CONV, data={"region": "NorthAmerica"})
    model = load_checkpoint(run).metadata.config
    assert (model.height, model.width, model.edges) == (8, 16, "window")
    scored = evaluate(evaluation(dataset, tmp_path / "scores", {"regional": run, "global": globe}))
    assert json.loads(scored.read_text())["domain"]["name"] == "NorthAmerica"
    config = PredictConfig(
        models={"regional": str(run)}, input=str(dataset), output=str(tmp_path / "a.nc"), lead_hours=(6, 24),
        period=("2004-01-03", "2004-01-03"), start_every_hours=24,
    )  # fmt: skip
    with xr.open_dataset(predict(config), decode_timedelta=False) as found:
        assert np.isfinite(found["2m_temperature"].to_numpy()).all()
        assert found.lat.values.tolist() == [16.875 + 11.25 * i for i in range(5)]
        assert found.lon.values.tolist() == [225 + 11.25 * i for i in range(7)]


def test_edges_are_the_regions_business(train: Train) -> None:
    refused(
        lambda: train("edges", "pretrain", model=CONV | {"edges": "window"}),
        "model.edges = window: data.region sets it; leave it out",
    )


def test_blocks_of_another_form_do_not_fit(train: Train, globe: Path) -> None:
    refused(lambda: train("vit", checkpoint=str(globe)), r"has blocks = conv, the config says model.blocks = vit")


def test_all_weights_serve_another_grid_and_other_variables(
    train: Train, globe: Path, make_dataset: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    still = {"lr": 1e-30, "end_lr": 0.0, "warmup_steps": 0}  # what comes out is what training started from
    names = ["2m_temperature", "temperature_850", "latitude"]
    data = {"dataset": str(make_dataset(shape=(24, 48)))}
    model = CONV | {"height": 24, "width": 48, "variables": names}
    run = train("larger", checkpoint=str(globe), transfer=True, model=model, data=data, optimizer=still)
    printed = capsys.readouterr().out
    assert "transfer: 2 variables kept; 1 new (temperature_850); 2 dropped" in printed
    assert "positions" not in printed
    account = json.loads((run / "transfer.json").read_text())
    old, new = load_checkpoint(globe).weights, load_checkpoint(run).weights
    assert account["parameters_kept"] + account["parameters_new"] == sum(t.numel() for t in new.values())
    shared = [name for name in old if name.startswith(("blocks.", "norm.", "aggregator.in_proj"))]
    assert shared
    assert all(torch.equal(new[name], old[name]) for name in shared)


def test_roll_out_bfloat16_and_zero_3_train(train: Train, globe: Path) -> None:
    """All at once: three steps of a roll-out, with parameters gathered in each module's forward."""
    run = train(
        "rolled", checkpoint=str(globe), model=CONV | {"activation_checkpointing": True, "dropout": 0.1},
        train={"precision": "bfloat16", "zero_stage": 3, "ema_decay": 0.9},
        data={"rollout_steps": 3, "min_lead_hours": 6.0, "max_lead_hours": 6.0},
    )  # fmt: skip
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert np.isfinite([row["loss"] for row in rows if "loss" in row]).all()
    before, after = load_checkpoint(globe).weights, load_checkpoint(run).weights
    moved = [name for name in before if name.startswith("blocks.") and not torch.equal(before[name], after[name])]
    assert len(moved) == sum(name.startswith("blocks.") for name in before)
