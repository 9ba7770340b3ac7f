"""Every trained baseline uses the same loop, checkpoints, fine-tuning, evaluation and prediction as ClimaX."""

from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from climax_hpc.cli import run
from climax_hpc.config.inference import EvaluateConfig, PredictConfig
from climax_hpc.data.dataset import DataSet
from climax_hpc.errors import UserError
from climax_hpc.evaluation.evaluate import evaluate
from climax_hpc.evaluation.scorecard import Scorecard
from climax_hpc.inference.predict import predict

from .conftest import train_here, write_config

CHANNELS = ("2m_temperature", "geopotential_500", "u_component_of_wind_850", "v_component_of_wind_850")


@pytest.fixture
def settings(make_dataset: Any, tmp_path: Path) -> dict[str, Any]:
    """Anomalies that move eastward by one cell per step: a network can learn this, persistence cannot."""
    dataset = make_dataset(channels=CHANNELS, drift_cells=1, shape=(8, 16), steps_per_year=60)
    return {
        "run_folder": str(tmp_path / "run"),
        "data": {"dataset": str(dataset), "period": ["2001", "2003"], "max_lead_hours": 12},
        "model": {"variables": list(CHANNELS), "height": 8, "width": 16, "patch": 2, "embed_dim": 16, "depth": 1},
        "optimizer": {"lr": 5e-3, "warmup_steps": 5},
        "train": {"steps": 80, "log_every": 1, "checkpoint_every": 80, "threads": 1},
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["linear", "resnet", "unet"])
def test_learns_and_is_scored_and_predicts(settings: dict[str, Any], tmp_path: Path, kind: str) -> None:
    settings["model"] |= {"kind": kind, "dropout": 0.0, "output_mode": "anomaly"}
    values = train_here(settings, tmp_path)
    assert sum(values[-10:]) < 0.75 * sum(values[:10])
    dataset = settings["data"]["dataset"]
    config = EvaluateConfig(
        run_folder=str(tmp_path / "evaluation"),
        models={kind: settings["run_folder"]},
        dataset=dataset,
        source=next(iter(DataSet(dataset).sources)),
        period=("2004", "2004"),
        train_period=("2001", "2003"),
        lead_hours=(6,),
        map_lead_hours=6,
        resamples=100,
    )
    card = Scorecard.load(evaluate(config).parent)
    for variable in CHANNELS:
        found = card.difference(kind, variable, 6)
        assert found is not None
        assert found["interval"][1] < 0, f"{variable}: not better than damped persistence"
    out = predict(
        PredictConfig(
            models={kind: settings["run_folder"]},
            input=dataset,
            output=str(tmp_path / "one.nc"),
            period=("2004-01-02", "2004-01-02"),
            start_every_hours=24,
            lead_hours=(6, 12),
            rollout_hours=6,
        )
    )
    ds = xr.open_dataset(out, decode_timedelta=False)
    assert "lie in the trained range" in ds.attrs["comment"] or "addition to ClimaX" in ds.attrs["comment"]
    assert ds.geopotential_500.notnull().all()


def test_another_kind_is_refused_as_a_start(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["model"] |= {"kind": "linear"}
    settings["train"] |= {"steps": 1, "checkpoint_every": 1}
    train_here(settings, tmp_path)
    words = ["--run_folder", str(tmp_path / "other"), "--checkpoint", settings["run_folder"], "--model.kind", "resnet"]
    with pytest.raises(UserError, match=r"has kind = linear, the config says model.kind = resnet"):
        run(["finetune", "--config", write_config(settings, tmp_path), *words])
    assert not (tmp_path / "other").exists()
