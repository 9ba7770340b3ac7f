"""Sub-seasonal to seasonal forecasting: means over weeks 3-4 and 5-6 trained, scored and written."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from climax_hpc.checkpoint.format import load_checkpoint
from climax_hpc.config.inference import PredictConfig
from climax_hpc.config.training import DataConfig
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.sampler import Sample
from climax_hpc.evaluation.evaluate import evaluate
from climax_hpc.fields.grid import latitude_weights
from climax_hpc.inference.forecaster import Forecaster
from climax_hpc.inference.predict import predict

from .forecasts import CHANNELS, MODEL, Train, evaluation, refused, trainer

WEEKS = {"min_lead_hours": 336.0, "max_lead_hours": 672.0, "lead_stride_hours": 336.0, "window_hours": 336.0}
T2M = "2m_temperature"


@pytest.fixture(scope="module")
def dataset(make_dataset: Callable[..., Path]) -> Path:
    """60 days a year: the windows of weeks 5-6 end on day 42, persistence begins 14 days before the start."""
    return make_dataset(steps_per_year=240, channels=CHANNELS, dtype="float32")


@pytest.fixture(scope="module")
def train(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    return trainer(dataset, tmp_path_factory.mktemp("s2s"))


@pytest.fixture(scope="module")
def s2s(train: Train) -> Path:
    small = MODEL | {"height": 8, "width": 16, "output_mode": "anomaly"}
    globe = train("globe", "pretrain", model=small)
    data = WEEKS | {"window_step_hours": 24.0, "validation_period": ["2004", "2004"]}
    return train("s2s", checkpoint=str(globe), model=small, data=data)


def test_the_checkpoint_records_its_window(s2s: Path) -> None:
    metadata = load_checkpoint(s2s).metadata
    assert metadata.training is not None
    assert metadata.training.window_hours == 336
    assert metadata.training.lead_step_hours == 336
    assert metadata.normalisation.lead_hours == [336, 672]
    rows = [json.loads(line) for line in (s2s / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(list(row.values())).all() for row in rows)


def test_scores_are_of_two_week_means(
    dataset: Path, s2s: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = evaluation(dataset, tmp_path, {"s2s": s2s}, lead_hours=(336, 672), map_lead_hours=336, resamples=100)
    content = json.loads(evaluate(config).read_text())
    assert content["window"] == {"hours": 336, "step_hours": 24}
    assert "means over 336 h from the lead time on" in capsys.readouterr().out
    assert "latest mean" in content["baselines"]["persistence"]
    source, tail = DataSet(dataset).select(None)[0], 13 * 4
    assert content["pairs"] == {"336": 240 - 56 - 2 * tail, "672": 240 - 112 - 2 * tail}
    c = source.channels.index(T2M)
    z = np.stack([source.read(t)[c] for t in range(720, 960)]).astype(np.float64)
    normal = np.stack([source.read_climatology(t)[c] for t in range(720, 960)]).astype(np.float64)
    starts = range(tail, 240 - 112 - tail)

    def means(field: np.ndarray, shift: int) -> np.ndarray:
        return np.stack([field[t + shift : t + shift + tail + 1 : 4].mean(axis=0) for t in starts])

    truth, climatology = means(z, 112), means(normal, 112)
    model = Forecaster.load(s2s, source)
    forecast = model.forecast([Sample(time_index=720 + t, lead_steps=112) for t in starts])
    expected = {
        "persistence": means(z, -tail),
        "climatology": climatology,
        "s2s": forecast[:, model.variables.index(T2M)].double().numpy(),
    }
    weight_H1 = latitude_weights(source.grid)[:, None] * np.ones(16)
    for label, field in expected.items():
        found = content["scores"][label][T2M]["672"]
        square = np.average((field - truth) ** 2, axis=0).ravel() @ weight_H1.ravel() / weight_H1.sum()
        assert found["rmse"] == pytest.approx(np.sqrt(square) * source.std_C[c], rel=1e-5)
        low, high = content["intervals"][label][T2M]["672"]["rmse"]
        assert low <= found["rmse"] <= high
        if label != "climatology":
            a, b = field - climatology, truth - climatology
            products = [(weight_H1 * p * q).sum((1, 2)) for p, q in ((a, b), (a, a), (b, b))]
            acc = (products[0] / np.sqrt(products[1] * products[2])).mean()
            assert found["acc"] == pytest.approx(acc, rel=1e-4)


def test_files_are_marked_as_means(dataset: Path, s2s: Path, tmp_path: Path) -> None:
    config = PredictConfig(
        models={"s2s": str(s2s)}, input=str(dataset), output=str(tmp_path / "a.nc"), lead_hours=(336,),
        period=("2004-01-03", "2004-01-03"), start_every_hours=24,
    )  # fmt: skip
    with xr.open_dataset(predict(config), decode_times=False) as found:
        bounds = found.time_bnds.values[0]
        assert (bounds[1] - bounds[0], bounds[0]) == (336, found.time.values[0])
        assert found[T2M].attrs["cell_methods"] == "time: mean"
        assert found.attrs["window"] == "means over 336 h from lead_time on, a value every 24 h"
        source = DataSet(dataset).select(None)[0]
        model, c = Forecaster.load(s2s, source), source.channels.index(T2M)
        z = model.forecast([Sample(time_index=728, lead_steps=56)])[0, model.variables.index(T2M)].numpy()
        np.testing.assert_allclose(found[T2M].values[0], z * source.std_C[c] + source.mean_C[c], rtol=1e-5)
    several = replace(config, output=str(tmp_path / "b.zarr"), start_every_hours=None)
    with xr.open_zarr(predict(several), decode_times=False) as found:
        assert found.time_bnds.dims == ("forecast_reference_time", "lead_time", "bnds")
    refused(
        lambda: predict(replace(config, rollout_hours=336.0)), "rollout_hours: the models forecast means over 336 h"
    )


def test_means_and_states_are_not_scored_together(dataset: Path, s2s: Path, train: Train, tmp_path: Path) -> None:
    globe = s2s.parent / "globe"
    both = evaluation(dataset, tmp_path / "e", {"mean": s2s, "state": globe})
    refused(lambda: evaluate(both), "'mean' forecasts means over 336 h, 'state' forecasts instantaneous states")
    rolled = evaluation(dataset, tmp_path / "e", {"mean": s2s}, rollout_hours={"mean": 24.0})
    refused(lambda: evaluate(rolled), "rollout_hours: .* forecasts means over 336 h, which cannot be rolled out")
    long = evaluation(dataset, tmp_path / "e", {"mean": s2s}, lead_hours=(1344,), map_lead_hours=336)
    refused(lambda: evaluate(long), "its longest segment without a gap allows 810 h")
    refused(lambda: DataConfig(dataset="d", window_step_hours=6), "data.window_step_hours needs data.window_hours")
    refused(
        lambda: train("x", data={"min_lead_hours": 336.0, "max_lead_hours": 336.0, "window_hours": 1344.0}, model=MODEL
                      | {"height": 8, "width": 16}),
        "has no pair of times 56 steps apart and 223 more steps of targets",
    )  # fmt: skip
