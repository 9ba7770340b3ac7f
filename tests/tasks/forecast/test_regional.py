"""Regional forecasting: same tokens as the global model; only its cells count in loss, scores and files."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch.utils.flop_counter import FlopCounterMode

from climax_hpc.checkpoint.format import load_checkpoint
from climax_hpc.checkpoint.regional import regional_checkpoint, regional_config
from climax_hpc.config.inference import PredictConfig
from climax_hpc.config.training import DataConfig, FinetuneConfig
from climax_hpc.data.batch_builder import SourceBatchBuilder
from climax_hpc.data.batches import Batch
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.sampler import Sample
from climax_hpc.evaluation.evaluate import evaluate
from climax_hpc.fields.grid import regular_grid
from climax_hpc.fields.regional_grid import Domain
from climax_hpc.fields.regions import REGIONS, Crop, crop_to, region_indices
from climax_hpc.inference.forecaster import Forecaster, choose
from climax_hpc.inference.initial_conditions import ShardInitialConditions
from climax_hpc.inference.predict import predict
from climax_hpc.model import ModelConfig, build_network
from climax_hpc.tasks.climate_projection.training import adapted
from climax_hpc.tasks.registry import finetune
from climax_hpc.training.data_setup import check_augmentation

from .forecasts import CHANNELS, MODEL, Train, evaluation, refused, trainer

NAME = "NorthAmerica"
SAMPLES = [Sample(time_index=3, lead_steps=4), Sample(time_index=60, lead_steps=8)]


@pytest.fixture(scope="module")
def dataset(make_dataset: Callable[..., Path]) -> Path:
    return make_dataset(shape=(16, 32), channels=CHANNELS, dtype="float32")


@pytest.fixture(scope="module")
def train(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    return trainer(dataset, tmp_path_factory.mktemp("regional"))


@pytest.fixture(scope="module")
def globe(train: Train) -> Path:
    return train("globe", "pretrain")


@pytest.fixture(scope="module")
def regional(train: Train, globe: Path) -> Path:
    return train("regional", checkpoint=str(globe), data={"region": NAME, "validation_period": ["2004", "2004"]})


def test_the_checkpoint_is_of_the_region(regional: Path) -> None:
    metadata = load_checkpoint(regional).metadata
    assert (metadata.config.height, metadata.config.width) == (8, 8)
    assert metadata.training is not None
    domain = metadata.training.domain(4)
    assert domain is not None
    assert domain.region == REGIONS[NAME]
    assert domain.grid.same_as(metadata.training.cells())
    rows = [json.loads(line) for line in (regional / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    assert [row["step"] for row in rows if "validation_loss" in row] == [2]


def test_tokens_are_those_of_the_globe(dataset: Path, globe: Path) -> None:
    start, source = load_checkpoint(globe), DataSet(dataset).select(None)[0]
    domain = Domain(region=REGIONS[NAME], globe=source.grid, patch=4)
    whole, part = (
        build_network(config) for config in (start.metadata.config, regional_config(start.metadata.config, domain))
    )
    whole.load_state_dict(start.weights)
    part.load_state_dict(regional_checkpoint(start, domain).weights)
    names = start.metadata.in_variables
    x_BVHW = torch.randn(2, len(names), *source.grid.shape)
    cut_BVHW = torch.from_numpy(domain.crop(source.grid, "x").apply(x_BVHW.numpy()))
    ids = whole.variable_ids(names)
    tokens = whole.aggregator(x_BVHW, ids) + whole.pos_embed
    torch.testing.assert_close(
        part.aggregator(cut_BVHW, ids) + part.pos_embed, tokens[:, domain.patch_indices], rtol=0, atol=1e-6
    )


def test_the_cost_follows_the_number_of_patches() -> None:
    globe = regular_grid(2.8125)
    domain = Domain(region=REGIONS[NAME], globe=globe, patch=4)
    config = ModelConfig(**(MODEL | {"height": 64, "width": 128, "embed_dim": 64}))
    share = len(domain.patch_indices) / (16 * 32)
    assert share == 5 * 8 / 512
    flop, seconds = [], []
    for network in (build_network(config).eval(), build_network(regional_config(config, domain)).eval()):
        x_BVHW = torch.randn(8, 4, network.config.height, network.config.width)
        arguments = (x_BVHW, torch.full((8,), 24.0), config.variables, CHANNELS)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(*arguments)
        flop.append(counter.get_total_flops())
        took = []
        for _ in range(5):
            began = time.perf_counter()
            with torch.no_grad():
                network(*arguments)
            took.append(time.perf_counter() - began)
        seconds.append(min(took))
    assert flop[1] < 1.1 * share * flop[0]  # a few products are per model, not per patch
    print(f"{share:.3f} of the patches: {flop[1] / flop[0]:.3f} of the FLOP, {seconds[1] / seconds[0]:.3f} of the time")
    assert seconds[1] < 0.5 * seconds[0]  # about 0.1 on a quiet machine


def in_the_box(batch: Batch, latitude_std: float) -> None:
    """Every cell that counts lies in North America, by the latitude that the batch itself carries."""
    latitude = batch.x_BVHW[:, batch.in_variables.index("latitude")] * latitude_std
    counted = batch.y_BOHW.isfinite().all(dim=1)
    box = (latitude >= 15) & (latitude <= 65)
    assert counted.sum() == 2 * 5 * 7
    assert not (counted & ~box).any()


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_region_is_in_the_north_and_the_test_fails_on_a_mirrored_grid(
    dataset: Path, globe: Path, mirrored: bool
) -> None:
    """Error 1 of the released ClimaX: with ascending latitudes its mask selected -64.7 … -25.3°."""
    source, metadata = DataSet(dataset).select(None)[0], load_checkpoint(globe).metadata
    domain = Domain(region=REGIONS[NAME], globe=source.grid, patch=4)
    crop = domain.crop(source.grid, "x")
    if mirrored:
        crop = Crop(rows=15 - crop.rows, columns=crop.columns, grid=crop.grid)
    inputs, outputs = choose(load_checkpoint(globe), source, None)
    builder = SourceBatchBuilder(
        source, metadata.normalisation, inputs=inputs, outputs=outputs, device=torch.device("cpu"),
        crop=crop, counted_HW=domain.inside_HW,
    )  # fmt: skip
    batch, std = builder.build_batch(SAMPLES), metadata.normalisation.std["latitude"]
    assert metadata.normalisation.mean["latitude"] == pytest.approx(0, abs=1e-5)
    if mirrored:
        with pytest.raises(AssertionError):
            in_the_box(batch, std)
    else:
        in_the_box(batch, std)


def test_all_models_are_scored_on_the_cells_of_the_region(
    dataset: Path, globe: Path, regional: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = {"regional": regional, "globe": globe}
    content = json.loads(evaluate(evaluation(dataset, tmp_path / "e", models)).read_text())
    assert content["domain"]["name"] == NAME
    assert content["domain"]["cells"] == [5, 7]
    assert f"r1i1p1f1, {NAME}, 2004" in capsys.readouterr().out
    source = DataSet(dataset).select(None)[0]
    rows, columns = region_indices(source.grid, REGIONS[NAME])
    weight = np.diff(np.sin(np.deg2rad(source.grid.lat_bnds[rows])), axis=1)[:, 0]
    std = source.std_C[source.channels.index("geopotential_500")]
    z = np.stack([source.read(t)[source.channels.index("geopotential_500")] for t in range(144, 192)])
    z = z[:, rows[:, None], columns].astype(np.float64)
    samples = [Sample(time_index=144 + i, lead_steps=4) for i in range(44)]
    forecasts = {"persistence": z[:-4]}
    for label, folder in models.items():
        model = Forecaster.load(folder, source)
        y_BOHW = model.forecast(samples).numpy()
        assert np.isfinite(y_BOHW).all(axis=(0, 1)).sum() == (35 if label == "regional" else 512)
        forecasts[label] = y_BOHW[:, model.variables.index("geopotential_500")][:, rows[:, None], columns]
    for label, field in forecasts.items():
        square = ((field - z[4:]) ** 2).mean(axis=(0, 2)) @ weight / weight.sum()
        assert content["scores"][label]["geopotential_500"]["24"]["rmse"] == pytest.approx(std * np.sqrt(square))
    with np.load(tmp_path / "e" / "maps.npz") as maps:
        assert maps["truth"].shape == (2, 5, 7)
        assert np.isfinite(maps["forecast"]).all()
        assert (maps["lat"].min(), maps["lon"].min()) == (16.875, 225)


def test_predicted_files_hold_only_the_region(dataset: Path, regional: Path, tmp_path: Path) -> None:
    """From shards, and from NetCDF with latitudes descending and longitudes from -180."""
    config = PredictConfig(
        models={"regional": str(regional)}, input=str(dataset), output=str(tmp_path / "a.nc"), lead_hours=(6, 24),
        period=("2004-01-03", "2004-01-03"), start_every_hours=24,
    )  # fmt: skip
    with xr.open_dataset(predict(config), decode_timedelta=False) as found:
        assert found.geopotential_500.dims == ("time", "lat", "lon")
        assert found.lat.values.tolist() == [16.875 + 11.25 * i for i in range(5)]
        assert found.lon.values.tolist() == [225 + 11.25 * i for i in range(7)]
        assert found.lat_bnds.shape == (5, 2)
        assert found.attrs["region"] == f"{NAME}: 15 to 65 N, 220 to 300 E"
        source = DataSet(dataset).select(None)[0]
        rows, columns = region_indices(source.grid, REGIONS[NAME])
        model = Forecaster.load(regional, source)
        z_OHW = model.forecast([Sample(time_index=152, lead_steps=4)])[0].numpy()[:, rows[:, None], columns]
        c = source.channels.index("2m_temperature")
        expected = z_OHW[model.variables.index("2m_temperature")] * source.std_C[c] + source.mean_C[c]
        np.testing.assert_allclose(found["2m_temperature"].values[1], expected, rtol=1e-5)
        states = ShardInitialConditions(source)
        tas, z500 = (states.read(152)[source.channels.index(name)] for name in CHANNELS)
        ds = xr.Dataset(
            {
                "2m_temperature": (("time", "lat", "lon"), tas[None], {"units": "K"}),
                "geopotential_500": (("time", "lat", "lon"), z500[None], {"units": "m2 s-2"}),
                "orography": (("lat", "lon"), source.static["orography"], {"units": "m"}),
            },
            {"time": [np.datetime64("2004-01-03", "ns")], "lat": source.grid.lat, "lon": source.grid.lon},
        )
        ds = ds.assign_coords(lon=(ds.lon + 180) % 360 - 180).sortby("lon").isel(lat=slice(None, None, -1))
        ds.to_netcdf(tmp_path / "states.nc")
        other = predict(replace(config, input=str(tmp_path / "states.nc"), output=str(tmp_path / "b.nc"), period=None))
        with xr.open_dataset(other, decode_timedelta=False) as again:
            np.testing.assert_allclose(again["2m_temperature"], found["2m_temperature"], rtol=1e-5)
            np.testing.assert_array_equal(again.lon, found.lon)


def test_a_regional_model_resumes_only_in_its_region(train: Train, regional: Path) -> None:
    again = train("again", checkpoint=str(regional), data={"region": NAME}, train={"steps": 1})
    assert load_checkpoint(again).metadata.config.height == 8
    start = {"checkpoint": str(regional)}
    refused(
        lambda: train("x", **start, data={"region": "Europe"}), f"model of region {NAME}, but data.region is Europe"
    )
    refused(lambda: train("x", **start), rf"is regional \({NAME}\): set the same data.region")
    refused(lambda: train("x", **start, transfer=True), rf"transfer: .* is regional \({NAME}\)")
    projection = ModelConfig(**MODEL, years=2, projected=("diurnal_temperature_range",))  # type: ignore[arg-type]
    refused(lambda: adapted(load_checkpoint(regional), projection, 0), rf"transfer: .* is regional \({NAME}\)")


def test_refused_with_a_region(
    train: Train, globe: Path, regional: Path, dataset: Path, tmp_path: Path, make_dataset: Callable[..., Path]
) -> None:
    refused(lambda: DataConfig(dataset="d", region="Eruope"), "unknown region .Eruope.; use Europe")
    refused(lambda: DataConfig(dataset="d", region=NAME, random_roll=True), "need a global grid: set them to false")
    half = SimpleNamespace(name="half", grid=crop_to(regular_grid(5.625), REGIONS[NAME]).grid)
    rolled: Any = (DataConfig(dataset="d", random_roll=True), [half])
    refused(lambda: check_augmentation(*rolled), "but source half is regional: set both to false")
    refused(
        lambda: finetune(FinetuneConfig(run_folder="r", task="downscaling", data=DataConfig(dataset="d", region=NAME))),
        "data.region belongs to task forecast: leave it out",
    )
    refused(
        lambda: train("x", data={"region": NAME}, model={"kind": "unet", "height": 16, "width": 32}),
        "data.region: model.kind unet needs a global grid; use model.kind climax",
    )
    refused(lambda: train("x", data={"region": NAME}, model={"height": 32, "width": 64}), "to those of the global grid")
    models = {"a": str(regional), "b": str(globe)}
    config = PredictConfig(models=models, input=str(dataset), output=str(tmp_path / "x.nc"), period=("2004", "2004"))
    refused(lambda: predict(config), f"models: .*'a' of {NAME}, 'b' of the globe; run them separately")
    wrong = evaluation(dataset, tmp_path / "e", {"a": regional}, regions=["Australia"])
    refused(lambda: evaluate(wrong), "regions: the models forecast no cell of Australia")
    coarse = evaluation(make_dataset(channels=CHANNELS), tmp_path / "e", {"a": regional})
    refused(lambda: evaluate(coarse), f"lacks cells of region {NAME}, which needs 5 × 7 cells")
    assert not (tmp_path / "e").exists()
