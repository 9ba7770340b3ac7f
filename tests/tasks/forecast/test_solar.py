"""Solar inputs of forecasts: batches, turned globes, regions, roll-outs, evaluation and prediction; what is refused."""

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
from climax_hpc.data.normalisation_fit import fit_normalisation
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.prefetch import read_now
from climax_hpc.data.sampler import MicroBatch, Sample
from climax_hpc.data.solar_inputs import SolarInputs, with_solar
from climax_hpc.evaluation.evaluate import evaluate
from climax_hpc.fields.grid import Grid
from climax_hpc.fields.regional_grid import Domain
from climax_hpc.fields.regions import REGIONS
from climax_hpc.fields.variables import SOLAR, lookup
from climax_hpc.inference.api import ClimaX
from climax_hpc.inference.forecaster import Forecaster
from climax_hpc.inference.predict import predict
from climax_hpc.model import ModelConfig
from climax_hpc.tasks.climate_projection.yearly_data import check_holds
from climax_hpc.training.data_setup import check_variables

from .forecasts import CHANNELS, MODEL, Train, evaluation, refused, trainer

SUN = ("toa_insolation", "cosine_of_solar_zenith_angle_at_valid_time")  # in registry order
INPUTS = (*CHANNELS, *SUN, "latitude")
SMALL = MODEL | {"variables": [*INPUTS]}
SAMPLES = [Sample(time_index=2, lead_steps=3), Sample(time_index=61, lead_steps=1)]
CPU = torch.device("cpu")
START = "2004-01-03T06"


@pytest.fixture(scope="module")
def dataset(make_dataset: Callable[..., Path]) -> Path:
    return make_dataset(shape=(16, 32), channels=CHANNELS, dtype="float32")


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Train, Path]:
    train = trainer(dataset, tmp_path_factory.mktemp("solar"))
    return train, train("sun", "pretrain", model=SMALL, data={"random_roll": True, "random_flip": True})


def normalised(source: PackedSource, mode: str = "full") -> Any:
    norm = fit_normalisation([source], mode=mode, period=("2001", "2003"), min_lead_hours=6, max_lead_hours=48)
    return with_solar(norm, SUN)


def builder_of(source: PackedSource, mode: str = "full", **options: Any) -> SourceBatchBuilder:
    common: dict[str, Any] = {"inputs": INPUTS, "outputs": CHANNELS, "device": CPU}
    return SourceBatchBuilder(source, normalised(source, mode), **common | options)


def sun_of(source: PackedSource, hours: Any, leads: Any, grid: Grid | None = None) -> torch.Tensor:
    """Both inputs (B, 2, H, W) at these times, from the formulas alone."""
    made = SolarInputs(SUN, grid or source.grid, source.calendar, normalised(source), CPU, dtype=torch.float64)
    return made(np.asarray(hours, np.float64), np.asarray(leads, np.float64)).float()


@pytest.mark.parametrize("mode", ["full", "anomaly"])
def test_batches_hold_the_sun_of_their_own_times(source: PackedSource, mode: str) -> None:
    inputs, outputs = choose_variables(source, INPUTS[::-1], None, None)
    assert tuple(inputs) == INPUTS  # states, the sun, static fields
    assert tuple(outputs) == CHANNELS
    batch = builder_of(source, mode).build_batch(SAMPLES)
    expected = sun_of(source, source.hours[[2, 61]], [18, 6])
    torch.testing.assert_close(batch.x_BVHW[:, 2:4], expected, rtol=0, atol=1e-5)
    assert batch.solar_BKGHW is None
    plain = builder_of(source, mode, inputs=(*CHANNELS, "latitude")).build_batch(SAMPLES)
    assert torch.equal(plain.x_BVHW, batch.x_BVHW[:, [0, 1, 4]])
    assert torch.equal(plain.y_BOHW, batch.y_BOHW)


def test_a_turned_or_mirrored_globe_takes_its_sun_with_it(source: PackedSource) -> None:
    turning = builder_of(source, random_roll=True, random_flip=True, rollout_steps=2)
    plain = builder_of(source, rollout_steps=2)
    samples = tuple(SAMPLES)
    raw = read_now(plain.spec, SAMPLES, CPU)
    before = plain.assemble(MicroBatch(source=source.name, samples=samples, key=0), raw)
    found = set()
    for key in range(12):
        after = turning.assemble(MicroBatch(source=source.name, samples=samples, key=key), raw)
        assert before.solar_BKGHW is not None
        assert after.solar_BKGHW is not None
        for b in range(2):
            changes = [(shift, flip) for shift in range(32) for flip in (False, True)]
            shift, flip = next(c for c in changes if torch.equal(moved(before.x_BVHW[b, :2], *c), after.x_BVHW[b, :2]))
            assert torch.equal(moved(before.x_BVHW[b, 2:4], shift, flip), after.x_BVHW[b, 2:4])
            assert torch.equal(moved(before.solar_BKGHW[b], shift, flip), after.solar_BKGHW[b])
            assert torch.equal(before.x_BVHW[b, 4], after.x_BVHW[b, 4])  # the latitude
            found.add((shift > 0, flip))
    assert found >= {(True, False), (True, True)}


def moved(fields: torch.Tensor, shift: int, flip: bool) -> torch.Tensor:
    turned = fields.roll(shift, -1)
    return turned.flip(-2) if flip else turned


def test_a_region_has_the_sun_of_its_own_cells(source: PackedSource) -> None:
    for name in ("NorthAmerica", "Europe"):  # Europe lies on both sides of the first meridian after padding
        crop = Domain(region=REGIONS[name], globe=source.grid, patch=4).crop(source.grid, "x")
        part = builder_of(source, crop=crop).build_batch(SAMPLES).x_BVHW[:, 2:4]
        whole = builder_of(source).build_batch(SAMPLES).x_BVHW[:, 2:4]
        np.testing.assert_allclose(part.numpy(), crop.apply(whole.numpy()), rtol=0, atol=1e-5)


def test_each_step_of_a_roll_out_has_the_sun_of_its_start(source: PackedSource) -> None:
    batch = builder_of(source, rollout_steps=3).build_batch(SAMPLES)
    assert batch.solar_BKGHW is not None
    for k in range(3):
        expected = sun_of(source, source.hours[[2, 61]] + k * np.array([18, 6]), [18, 6])
        torch.testing.assert_close(batch.solar_BKGHW[:, k], expected, rtol=0, atol=1e-5)
    assert torch.equal(batch.x_BVHW[:, 2:4], batch.solar_BKGHW[:, 0])
    fewer = builder_of(source, rollout_steps=3)
    micro_batch = MicroBatch(source=source.name, samples=tuple(SAMPLES), key=0, rollout_steps=2)
    raw = read_now(fewer.spec.of(micro_batch), SAMPLES, CPU)
    assert torch.equal(fewer.assemble(micro_batch, raw).solar_BKGHW, batch.solar_BKGHW[:, :2])
    steps = builder_of(source).solar_steps(SAMPLES, 2)
    assert steps is not None
    torch.testing.assert_close(steps(3), sun_of(source, source.hours[[2, 61]] + 36, [12, 12]), rtol=0, atol=1e-5)
    assert builder_of(source, inputs=(*CHANNELS, "latitude")).solar_steps(SAMPLES, 2) is None


def agree(run: Path, dataset: Path, source: PackedSource, folder: Path, lead: float, rollout: float | None) -> None:
    """Forecasts of `evaluate` and of `predict` are the same."""
    model = Forecaster(load_checkpoint(run), source, variables=None, device=CPU, rollout_hours=rollout)
    start = next(t for t in range(source.steps) if source.date(t).isoformat().startswith(START))
    z_OHW = model.forecast([Sample(time_index=start, lead_steps=round(lead / 6))])[0].numpy()
    config = PredictConfig(
        models={"sun": str(run)}, input=str(dataset), output=str(folder), lead_hours=(lead,),
        period=("2004-01-03", "2004-01-03"), rollout_hours=rollout,
    )  # fmt: skip
    with xr.open_dataset(predict(config) / "forecast_20040103T060000.nc", decode_timedelta=False) as found:
        for name in CHANNELS:
            c, o = source.channels.index(name), model.variables.index(name)
            expected = z_OHW[o] * source.std_C[c] + source.mean_C[c]
            values = found[name].values.squeeze()
            inside = expected[np.isfinite(expected)].reshape(values.shape)
            np.testing.assert_allclose(values, inside, rtol=1e-5, atol=1e-4 * inside.std())


@pytest.mark.parametrize(("lead", "rollout"), [(12.0, None), (18.0, 6.0)])
def test_evaluation_and_prediction_agree(
    trained: tuple[Train, Path], dataset: Path, source: PackedSource, tmp_path: Path, lead: float, rollout: float | None
) -> None:
    agree(trained[1], dataset, source, tmp_path / "forecasts", lead, rollout)
    metadata = load_checkpoint(trained[1]).metadata
    assert set(metadata.in_variables) == set(INPUTS)
    assert set(metadata.out_variables) == set(CHANNELS)
    assert metadata.normalisation.std[SUN[0]] == pytest.approx(1361 * np.sqrt(5 / 48))


def test_anomaly_models_and_roll_outs_are_trained_evaluated_and_predicted(
    trained: tuple[Train, Path], dataset: Path, source: PackedSource, tmp_path: Path
) -> None:
    train, run = trained
    steps = {"rollout_steps": 3, "min_rollout_steps": 1, "min_lead_hours": 6.0, "max_lead_hours": 6.0}
    rolled = train("rolled", checkpoint=str(run), data=steps | {"random_roll": True}, model=SMALL)
    agree(rolled, dataset, source, tmp_path / "rolled", 12.0, 6.0)
    anomaly = train("anomaly", "pretrain", model=SMALL | {"output_mode": "anomaly"})
    norm = load_checkpoint(anomaly).metadata.normalisation
    assert set(SUN) <= norm.std.keys()
    assert not set(SUN) & norm.anomaly_std.keys()
    models, rolls = {"anomaly": anomaly, "rolled": rolled}, {"rolled": 6.0}
    scores = json.loads(
        Path(evaluate(evaluation(dataset, tmp_path / "scores", models, rollout_hours=rolls))).read_text()
    )
    assert scores["models"].keys() >= models.keys()


def test_regional_models(trained: tuple[Train, Path], dataset: Path, source: PackedSource, tmp_path: Path) -> None:
    train, run = trained
    regional = train("regional", checkpoint=str(run), model=SMALL, data={"region": "NorthAmerica"})
    agree(regional, dataset, source, tmp_path / "region", 12.0, None)


def test_the_python_interface_knows_the_date(
    trained: tuple[Train, Path], source: PackedSource, dataset: Path, make_checkpoint: Callable[..., Path]
) -> None:
    """The same fields 6 h later give another forecast; a model without the sun does not tell the times apart."""
    grid = source.grid
    fields = {
        "2m_temperature": (("time", "lat", "lon"), np.full((2, 16, 32), 280.0), {"units": "K"}),
        "geopotential_500": (("time", "lat", "lon"), np.full((2, 16, 32), 5.4e4), {"units": "m2 s-2"}),
    }
    times = xr.date_range("2001-07-01", periods=2, freq="6h", calendar="360_day", use_cftime=True)
    ds = xr.Dataset(fields, {"time": times, "lat": grid.lat, "lon": grid.lon})
    for model, differs in ((trained[1], True), (make_checkpoint(dataset, mode="full"), False)):
        forecast = ClimaX.from_pretrained(model).forecast(ds, lead="12h")["2m_temperature"]
        first, second = forecast.values.reshape(2, 16, 32)
        assert (np.abs(first - second).max() > 1e-3) == differs


def test_a_checkpoint_without_the_sun_takes_it_by_transfer(trained: tuple[Train, Path]) -> None:
    train, run = trained
    plain = train("base", "pretrain", model=SMALL | {"variables": [*CHANNELS, "latitude"]})
    moved_on = load_checkpoint(train("moved", checkpoint=str(plain), transfer=True, model=SMALL)).metadata
    assert set(moved_on.in_variables) == set(INPUTS)
    alone = {"in_variables": [*CHANNELS, SUN[0]]}
    less = load_checkpoint(train("less", checkpoint=str(run), model=SMALL, data=alone)).metadata
    assert set(less.in_variables) == {*CHANNELS, SUN[0]}


def test_what_is_refused(source: PackedSource) -> None:
    from climax_hpc.data_prep.config import PackConfig

    refused(lambda: DataConfig(dataset="d", out_variables=[SUN[0]]), "is computed from the date, which can only be an")
    refused(lambda: PackConfig(input="i", output="o", variables=[SUN[0]]), "is computed when a network takes it, never")
    refused(lambda: choose_variables(source, SUN, None, None), "holds .*none of them is in model.variables")
    config = PretrainConfig(
        run_folder="r", data=DataConfig(dataset="d", in_variables=[*INPUTS]), model=ModelConfig(**SMALL)
    )
    check_variables(config, [source], computed=SOLAR)
    refused(lambda: check_variables(config, [source]), "data.in_variables: no source has toa_insolation")  # downscaling
    refused(lambda: check_holds(source, SUN, "a forcing of the model"), "lacks toa_insolation, cosine_of_solar_zenith")
    refused(lambda: lookup("toa_insolaton"), "did you mean toa_insolation")
    assert [lookup(name).short_name for name in SOLAR] == ["INSOL", "INSOL+", "COSZ", "COSZ+"]
