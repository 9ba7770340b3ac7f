"""Tendencies as inputs: their values, start times, training, evaluation and prediction with them; what is refused."""

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
from climax_hpc.config.training import DataConfig, PretrainConfig
from climax_hpc.data.batch_builder import SourceBatchBuilder
from climax_hpc.data.batches import choose_variables
from climax_hpc.data.normalisation_fit import anomaly, fit_normalisation
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.prefetch import read_now
from climax_hpc.data.sampler import MicroBatch, Sample
from climax_hpc.data.tendency_fit import with_tendencies
from climax_hpc.evaluation.evaluate import evaluate
from climax_hpc.fields.grid import latitude_weights
from climax_hpc.fields.variables import lookup, tendency_name
from climax_hpc.inference.forecaster import Forecaster
from climax_hpc.inference.predict import predict
from climax_hpc.model import ModelConfig
from climax_hpc.training.data_setup import check_variables, sample_times

from .forecasts import MODEL, Train, evaluation, refused, trainer

CHANNELS = ("geopotential_500", "v_component_of_wind_850")  # in the order of the data set
CHANGES = tuple(map(tendency_name, CHANNELS))
INPUTS = (*CHANNELS, *CHANGES, "latitude")
SMALL = MODEL | {"variables": [*INPUTS], "output_mode": "anomaly", "height": 8, "width": 16}
SAMPLES = [Sample(time_index=2, lead_steps=3), Sample(time_index=60, lead_steps=1)]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(make_dataset: Callable[..., Path]) -> Path:
    hole = np.zeros((8, 16), bool)
    hole[3, 4:9] = True
    return make_dataset(channels=CHANNELS, dtype="float32", missing={CHANNELS[0]: hole})


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Train, Path]:
    train = trainer(dataset, tmp_path_factory.mktemp("tendencies"))
    return train, train("changes", "pretrain", model=SMALL, data={"random_roll": True, "random_flip": True})


def normalised(source: PackedSource, mode: str) -> Any:
    norm = fit_normalisation([source], mode=mode, period=("2001", "2003"), min_lead_hours=6, max_lead_hours=48)
    return with_tendencies(norm, [source], CHANGES, ("2001", "2003"))


def changes(source: PackedSource, time_index: int, mode: str) -> Any:
    """By hand, in physical units (float64)."""
    if mode == "anomaly":
        return anomaly(source, time_index).astype(float) - anomaly(source, time_index - 1)
    return (source.read(time_index).astype(float) - source.read(time_index - 1)) * source.std_C[:, None, None]


@pytest.mark.parametrize("mode", ["full", "anomaly"])
def test_values_and_spread_are_those_of_differences_by_hand(source: PackedSource, mode: str) -> None:
    norm = normalised(source, mode)
    spread = norm.anomaly_std if mode == "anomaly" else norm.std
    times = [s.first + i for s in source.within(("2001", "2003")) for i in range(1, s.steps)]
    weight_HW = np.repeat(latitude_weights(source.grid)[:, None], 16, axis=1)
    every_TCHW = np.stack([changes(source, t, mode) for t in times])
    for c, name in enumerate(CHANGES):
        valid = np.isfinite(every_TCHW[:, c])
        square = np.nansum(every_TCHW[:, c] ** 2 * weight_HW) / (valid * weight_HW).sum()
        assert spread[name] == pytest.approx(np.sqrt(square), rel=0.05)  # of a part of the times
        assert norm.mean[name] == 0
    builder = SourceBatchBuilder(source, norm, inputs=INPUTS, outputs=CHANNELS[::-1], device=CPU)
    batch = builder.build_batch(SAMPLES)
    assert batch.x_BTVHW is None
    assert batch.x_BVHW.shape[1] == len(INPUTS)
    for b, sample in enumerate(SAMPLES):
        by_hand = changes(source, sample.time_index, mode)
        for c, name in enumerate(CHANGES):
            found = batch.x_BVHW[b, INPUTS.index(name)].numpy()
            np.testing.assert_allclose(found, by_hand[c] / spread[name], rtol=1e-4, atol=1e-4)
    plain = SourceBatchBuilder(source, norm, inputs=(*CHANNELS, "latitude"), outputs=CHANNELS[::-1], device=CPU)
    assert torch.equal(plain.build_batch(SAMPLES).x_BVHW[:, :2].nan_to_num(), batch.x_BVHW[:, :2].nan_to_num())
    assert torch.equal(plain.build_batch(SAMPLES).y_BOHW.nan_to_num(), batch.y_BOHW.nan_to_num())


@pytest.mark.parametrize("mode", ["full", "anomaly"])
def test_a_mirrored_northward_tendency_changes_sign(source: PackedSource, mode: str) -> None:
    norm = normalised(source, mode)
    options: dict[str, Any] = {"inputs": (*CHANGES, "latitude"), "outputs": CHANNELS, "device": CPU}
    plain = SourceBatchBuilder(source, norm, **options)
    flipping = SourceBatchBuilder(source, norm, **options, random_flip=True)
    raw = read_now(plain.spec, SAMPLES, CPU)
    before = plain.assemble(MicroBatch(source=source.name, samples=tuple(SAMPLES), key=0), raw).x_BVHW
    for key in range(8):
        after = flipping.assemble(MicroBatch(source=source.name, samples=tuple(SAMPLES), key=key), raw).x_BVHW
        for b in range(2):
            turned = not torch.equal(before[b, 0].nan_to_num(), after[b, 0].nan_to_num())
            expected = torch.stack([before[b, 0], -before[b, 1]]).flip(1) if turned else before[b, :2]
            torch.testing.assert_close(after[b, :2], expected, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_starts_have_a_state_before_them(source: PackedSource) -> None:
    times = sample_times(source, DataConfig(dataset="d"), None, INPUTS)
    assert times.history_steps == 1
    assert sample_times(source, DataConfig(dataset="d"), None, CHANNELS).history_steps == 0
    inputs, outputs = choose_variables(source, [*INPUTS, "orography"], None, None)
    assert [v for v in inputs if lookup(v).tendency_of] == inputs[2:4]  # after the states, before static fields
    assert set(outputs) == set(CHANNELS)
    assert lookup(CHANGES[0]).short_name == "dZ500"


def test_evaluation_and_prediction_agree(
    trained: tuple[Train, Path], dataset: Path, source: PackedSource, tmp_path: Path
) -> None:
    run = trained[1]
    assert set(CHANGES) <= set(load_checkpoint(run).metadata.in_variables)
    train, _ = trained
    plain = train("plain", "pretrain", model=SMALL | {"variables": [*CHANNELS, "latitude"]})
    alone = Path(evaluate(evaluation(dataset, tmp_path / "one", {"plain": plain}))).read_text()
    both = Path(evaluate(evaluation(dataset, tmp_path / "two", {"plain": plain, "changes": run}))).read_text()
    pairs = [json.loads(text)["pairs"]["24"] for text in (alone, both)]
    assert pairs[1] == pairs[0] - 1  # the first start has no state before it, for both models
    model = Forecaster.load(run, source)
    start = next(t for t in range(source.steps) if source.date(t).isoformat().startswith("2004-01-03T06"))
    z_OHW = model.forecast([Sample(time_index=start, lead_steps=2)])[0].numpy()
    config = PredictConfig(
        models={"changes": str(run)}, input=str(dataset), output=str(tmp_path / "a"), lead_hours=(12,),
        period=("2004-01-03", "2004-01-03"),
    )  # fmt: skip
    with xr.open_dataset(predict(config) / "forecast_20040103T060000.nc", decode_timedelta=False) as found:
        for name in CHANNELS:
            c, o = source.channels.index(name), model.variables.index(name)
            expected = z_OHW[o] * source.std_C[c] + source.mean_C[c]
            spread = expected[np.isfinite(expected)].std()
            values_HW = found[name].values.reshape(expected.shape)
            np.testing.assert_allclose(values_HW, expected, rtol=1e-4, atol=1e-3 * spread)
    first = PredictConfig(
        models={"changes": str(run)}, input=str(dataset), output=str(tmp_path / "b.nc"), lead_hours=(12,),
        period=("2001-01-01", "2001-01-01"), start_every_hours=24,
    )  # fmt: skip
    refused(lambda: predict(first), "no start has a state 6 h before it")


def test_starts_that_are_left_out_are_counted(
    trained: tuple[Train, Path], dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = PredictConfig(
        models={"changes": str(trained[1])}, input=str(dataset), output=str(tmp_path / "day"), lead_hours=(12,),
        period=("2001-01-01", "2001-01-01"),
    )  # fmt: skip
    predict(config)
    assert "predict: note: 1 of 4 starts are left out" in capsys.readouterr().out


def test_trained_evaluated_and_predicted_by_roll_out(
    trained: tuple[Train, Path], dataset: Path, source: PackedSource, tmp_path: Path
) -> None:
    train, run = trained
    steps = {"rollout_steps": 3, "min_rollout_steps": 1, "min_lead_hours": 6.0, "max_lead_hours": 6.0}
    rolled = train("rolled", checkpoint=str(run), model=SMALL, data=steps)
    model = Forecaster(load_checkpoint(rolled), source, variables=None, device=CPU, rollout_hours=6.0)
    start = next(t for t in range(source.steps) if source.date(t).isoformat().startswith("2004-01-03T06"))
    z_OHW = model.forecast([Sample(time_index=start, lead_steps=3)])[0].numpy()
    config = PredictConfig(
        models={"rolled": str(rolled)}, input=str(dataset), output=str(tmp_path / "r"), lead_hours=(18,),
        period=("2004-01-03", "2004-01-03"), rollout_hours=6.0,
    )  # fmt: skip
    with xr.open_dataset(predict(config) / "forecast_20040103T060000.nc", decode_timedelta=False) as found:
        for name in CHANNELS:  # in physical units there, in units of the model here
            c, o = source.channels.index(name), model.variables.index(name)
            expected = z_OHW[o] * source.std_C[c] + source.mean_C[c]
            spread = expected[np.isfinite(expected)].std()
            values_HW = found[name].values.reshape(expected.shape)
            np.testing.assert_allclose(values_HW, expected, rtol=1e-4, atol=1e-3 * spread)


def test_a_checkpoint_of_one_time_takes_tendencies_by_transfer(trained: tuple[Train, Path]) -> None:
    train, run = trained
    plain = train("base", "pretrain", model=SMALL | {"variables": [*CHANNELS, "latitude"]})
    moved = load_checkpoint(train("moved", checkpoint=str(plain), transfer=True, model=SMALL)).metadata
    assert set(moved.in_variables) == set(INPUTS)
    without = load_checkpoint(train("w", checkpoint=str(run), model=SMALL, data={"in_variables": [*CHANNELS]})).metadata
    assert set(without.in_variables) == set(CHANNELS)


def test_only_tasks_that_compute_tendencies_take_them(source: PackedSource) -> None:
    config = PretrainConfig(
        run_folder="r", data=DataConfig(dataset="d", in_variables=[*INPUTS]), model=ModelConfig(**SMALL)
    )
    check_variables(config, [source], computed=source.tendencies)
    refused(lambda: check_variables(config, [source]), f"data.in_variables: no source has {CHANGES[0]}")  # downscaling


def test_what_is_refused(trained: tuple[Train, Path]) -> None:
    train, _ = trained
    steps = {"rollout_steps": 2, "min_lead_hours": 12.0, "max_lead_hours": 12.0}
    refused(lambda: train("r", model=SMALL, data=steps), "its roll-outs need steps of 6 h .now 12")
    refused(lambda: DataConfig(dataset="d", out_variables=[CHANGES[0]]), "is a tendency, which can only be an input")
    refused(lambda: lookup("orography_tendency"), "unknown variable 'orography_tendency'")
