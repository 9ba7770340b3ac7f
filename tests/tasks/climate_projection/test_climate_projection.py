"""Climate projection on scenarios of the toy climate: data, networks, transfer, skill, files, bad input."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from safetensors.torch import load_file

from climax_hpc.checkpoint.format import find, load_checkpoint
from climax_hpc.cli import run
from climax_hpc.config.parser import read_config
from climax_hpc.config.training import FinetuneConfig
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.sampler import Sample
from climax_hpc.data_prep.simulation.scenarios import write_scenarios
from climax_hpc.errors import UserError
from climax_hpc.evaluation.nrmse import nrmse
from climax_hpc.fields.grid import latitude_weights, regular_grid
from climax_hpc.inference.forecaster import choose
from climax_hpc.report.paper_scores import compare_projections
from climax_hpc.report.projection_results import Projections
from climax_hpc.tasks.climate_projection.baselines import PatternScaling, TrainingMean
from climax_hpc.tasks.climate_projection.model import ProjectionModel
from climax_hpc.tasks.climate_projection.training import ProjectionTask, adapted
from climax_hpc.tasks.climate_projection.yearly_data import fields, projected_years, units_of
from climax_hpc.utils.formatting import format_score

from ...synthetic import write_checkpoint

pytestmark = pytest.mark.slow

FORCINGS = [
    "cumulative_co2_emissions", "methane_emissions", "sulfur_dioxide_emissions", "black_carbon_emissions",
]  # fmt: skip
TARGETS = ["2m_temperature", "total_precipitation_rate"]
TRAIN = ["NorESM2-LM_hist-GHG_mean", "NorESM2-LM_ssp126_mean", "NorESM2-LM_ssp585_mean"]
TEST = "NorESM2-LM_ssp245_mean"
YEARS = 4


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenarios to train on, one of them without aerosols, and one to test on; 8 × 16 cells."""
    folder = tmp_path_factory.mktemp("scenarios")
    names = [name.split("_")[1] for name in (*TRAIN, TEST)]
    write_scenarios(folder / "in", grid=regular_grid(22.5), experiments=names, members=2, first_year=1990)
    pack = ["--layout", "climatebench", "--frequency", "yr", "--climatology", "false", "--allow_constant", "true"]
    where = ["--input", str(folder / "in"), "--output", str(folder / "packed")]
    run(["pack", *pack, *where, "--dtype", "float32", "--grid_spacing_deg", "null"])
    return folder / "packed"


def settings(scenarios: Path, run_folder: Path, **model: Any) -> dict[str, Any]:
    """A run of seconds."""
    shape = {"height": 8, "width": 16, "patch": 4, "embed_dim": 16, "depth": 1, "heads": 2}
    own = {"variables": FORCINGS, "projected": TARGETS, "years": YEARS, "dropout": 0.0, "drop_path": 0.0}
    return {
        "run_folder": str(run_folder),
        "task": "projection",
        "data": {"dataset": str(scenarios), "sources": TRAIN, "micro_batch_size": 8, "micro_batches_per_step": 1},
        "model": shape | own | model,
        "optimizer": {"lr": 5e-3, "warmup_steps": 5, "betas": [0.9, 0.999]},
        "train": {"steps": 4, "log_every": 1, "checkpoint_every": 2, "threads": 1},
    }


def config_of(values: dict[str, Any], folder: Path) -> FinetuneConfig:
    """The settings as `finetune` reads them."""
    return read_config(FinetuneConfig, "finetune", ["--config", written(values, folder)])


def written(values: dict[str, Any], folder: Path) -> str:
    """The settings as a YAML file."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def finetune(values: dict[str, Any], folder: Path, *arguments: str) -> Path:
    """Run the verb; returns the run folder."""
    run(["finetune", "--config", written(values, folder), *arguments])
    return Path(values["run_folder"])


def weights_of(run_folder: Path) -> dict[str, torch.Tensor]:
    """Weights of the newest checkpoint."""
    return load_file(find(run_folder) / "weights.safetensors")


def test_units_are_those_of_the_fields_though_one_scenario_has_no_aerosols(scenarios: Path) -> None:
    """The shard of hist-GHG gives its constant sulphur a spread of 1, which is 1e10 of the others'."""
    sources = DataSet(scenarios).select(TRAIN)
    mean, std = units_of(sources, [*FORCINGS, "latitude"], None)
    whole = np.concatenate([[fields(s, FORCINGS, t) for t in range(s.steps)] for s in sources])
    for i, name in enumerate(FORCINGS):
        assert mean[name] == pytest.approx(whole[:, i].mean(), rel=1e-6)
        assert std[name] == pytest.approx(whole[:, i].std(), rel=1e-6)
    assert (mean["latitude"], std["latitude"]) == (pytest.approx(0, abs=1e-4), pytest.approx(51.55, abs=0.01))


def test_batches_hold_the_years_before_and_the_target_of_the_last(scenarios: Path, tmp_path: Path) -> None:
    task = ProjectionTask(config_of(settings(scenarios, tmp_path / "run"), tmp_path))
    data = task.prepare_data(None)
    source = task.dataset.select(TRAIN)[2]
    units = data.normalisation
    batch = data.builders[source.name].build_batch([Sample(time_index=7, lead_steps=0)])  # type: ignore[attr-defined]
    for names, got, years in ((FORCINGS, batch.x_BTVHW[0], (4, 5, 6, 7)), (TARGETS, batch.y_BOHW, (7,))):  # type: ignore[index]
        mean, std = (np.array([table[v] for v in names])[:, None, None] for table in (units.mean, units.std))
        expected = np.stack([(fields(source, names, t) - mean) / std for t in years])
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert batch.lead_hours_B.tolist() == [0.0]
    drawn = {
        s.time_index
        for step in range(60)
        for g in data.sampler.micro_batches(step)
        if g.source == source.name
        for s in g.samples
    }
    assert drawn == set(range(YEARS - 1, source.steps)), "every year with its years before it, the last one too"


@pytest.mark.parametrize("kind", ["climax", "resnet"])
def test_an_interrupted_run_resumes_bit_for_bit(kind: str, scenarios: Path, tmp_path: Path) -> None:
    values = settings(scenarios, tmp_path / "run", kind=kind)
    values["data"] |= {"sources": TRAIN[1:], "period": ["2015", "2080"], "validation_period": ["2085", "2100"]}
    values["train"] |= {"validate_every": 4, "validation_batches": 1}
    run_folder = finetune(values, tmp_path)
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert any("validation_loss" in line for line in lines)
    whole = weights_of(run_folder)
    finetune(values, tmp_path, "--resume_from", "step_00000002")
    for name, tensor in weights_of(run_folder).items():
        assert torch.equal(tensor, whole[name]), name


def test_a_trained_projection_beats_climatology_and_is_scored_with_pattern_scaling(
    scenarios: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = settings(scenarios, tmp_path / "climax", embed_dim=64)
    values["data"] |= {"micro_batch_size": 3, "micro_batches_per_step": 4}  # scenarios mixed in every step
    values["train"] |= {"steps": 150, "log_every": 50, "checkpoint_every": 150}
    climax = finetune(values, tmp_path)
    evaluation = [
        "evaluate", "--task", "projection",
        "--models", json.dumps({"ClimaX": str(climax)}), "--dataset", str(scenarios), "--source", TEST,
        "--period", '["2080", "2100"]', "--train_period", '["1990", "2100"]', "--resamples", "200",
        "--run_folder", str(tmp_path / "eval"), "--reference", "pattern scaling",
    ]  # fmt: skip
    run(evaluation)
    assert "NRMSE on NorESM2-LM_ssp245_mean, 2080 … 2100" in capsys.readouterr().out
    content = json.loads((tmp_path / "eval/evaluation.json").read_text())
    assert content["training_sources"] == TRAIN
    assert content["years"] == list(range(2080, 2101))
    scores = {label: {v: table[v]["total"] for v in TARGETS} for label, table in content["scores"].items()}
    assert list(scores) == ["ClimaX", "climatology", "pattern scaling"]
    lower, upper = content["intervals"]["ClimaX"]["2m_temperature"]["total"]
    assert 0.9 * lower <= scores["ClimaX"]["2m_temperature"] <= 1.1 * upper
    assert upper < 0.5 * content["intervals"]["climatology"]["2m_temperature"]["total"][0]
    difference = content["comparison"]["differences"]["ClimaX"][TARGETS[0]]
    assert difference["total"] == pytest.approx(scores["ClimaX"][TARGETS[0]] - scores["pattern scaling"][TARGETS[0]])
    source = DataSet(scenarios).select([TEST])[0]
    years = projected_years(source, ("2080", "2100"), YEARS)
    x_NOHW = ProjectionModel(load_checkpoint(climax), torch.device("cpu"), batch_size=5).project(source, years)
    y_NOHW = np.stack([fields(source, TARGETS, t) for t in years])
    weight_H = latitude_weights(source.grid, "cos")
    by_hand = nrmse(x_NOHW[:, 0], y_NOHW[:, 0], weight_H)
    assert by_hand["total"] == pytest.approx(scores["ClimaX"][TARGETS[0]], rel=1e-5)
    with np.load(tmp_path / "eval/maps.npz", allow_pickle=False) as maps:
        np.testing.assert_allclose(maps["map/truth"], y_NOHW.mean(0))
        np.testing.assert_allclose(maps["series/ClimaX"], x_NOHW.mean(-1) @ weight_H / 8, rtol=1e-5)
    run(["report", "--evaluation", str(tmp_path / "eval"), "--output", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text()
    assert "<h1>Climate projection scorecard</h1>" in page
    for label, by_name in content["scores"].items():
        for name, table in by_name.items():
            for value in (*table.values(), content["rmse"][label][name]):
                assert format_score(value) in page, (label, name)
    assert page.count("data:image/png;base64,") == len(TARGETS)
    assert (
        "ours are from a toy climate in the layout of ClimateBench; our grid has 8 × 16 cells, theirs 32 × 64" in page
    )
    found = Projections.load(tmp_path / "eval")
    real = replace(found.maps, lat=np.zeros(32), lon=np.zeros(64))
    beside = compare_projections(replace(found, content=content | {"identity": {}}, maps=real))
    assert "ClimaX, frozen (paper)" in beside
    assert "0.2970" in beside  # total NRMSE of tas
    with pytest.raises(UserError, match=r"was trained for task projection, not forecast"):
        choose(load_checkpoint(climax), source, None)


def test_a_forecasting_checkpoint_provides_its_encoder_and_frozen_keeps_the_blocks(
    scenarios: Path, make_dataset: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrained = write_checkpoint(
        tmp_path / "pretrained/checkpoints", make_dataset(), embed_dim=16, depth=1, heads=2, patch=2, mode="anomaly"
    )
    start = load_checkpoint(pretrained)
    values = settings(scenarios, tmp_path / "frozen", patch=2) | {
        "checkpoint": str(pretrained), "transfer": True, "frozen": True,
    }  # fmt: skip
    model = config_of(values, tmp_path).model
    taken = adapted(start, model, seed=0)
    assert torch.equal(taken.weights["blocks.0.attn.qkv.weight"], start.weights["blocks.0.attn.qkv.weight"])
    assert torch.equal(taken.weights["aggregator.in_proj_weight"], start.weights["aggregator.in_proj_weight"])
    embed_VD = taken.weights["aggregator.var_embed"]
    known_AD = start.weights["aggregator.var_embed"]
    assert (torch.cdist(embed_VD, known_AD) > 0.1).all(), "a new token is none of the old ones"
    run_folder = finetune(values, tmp_path)
    said = capsys.readouterr().out
    assert "transfer: 0 variables kept; 4 new (cumulative_co2_emissions" in said
    assert "transfer: the aggregation over years and the head are initialised" in said
    account = json.loads((run_folder / "transfer.json").read_text())
    after = weights_of(run_folder)
    assert account["parameters_kept"] + account["parameters_new"] == sum(t.numel() for t in after.values())
    unchanged = {name for name in after if name in start.weights and torch.equal(after[name], start.weights[name])}
    frozen = {name for name in after if name.startswith("blocks.") and "norm" not in name}
    assert frozen <= unchanged
    # A lead time of 0 h gives the weight of its embedding no gradient.
    assert unchanged - frozen == {"lead_time_embed.weight"}, "norms, embeddings, aggregations and the head are trained"
    units = load_checkpoint(run_folder).metadata.normalisation
    assert abs(units.mean["2m_temperature"]) < 5, "departures, not the pretraining's absolute temperatures"


def test_predict_writes_yearly_cf_netcdf(scenarios: Path, tmp_path: Path) -> None:
    one = finetune(settings(scenarios, tmp_path / "one"), tmp_path)
    two = finetune(settings(scenarios, tmp_path / "two", kind="linear"), tmp_path)
    models = json.dumps({"one": str(one), "two": str(two)})
    common = ["predict", "--task", "projection", "--models", models, "--input", str(scenarios), "--source", TEST]
    run([*common, "--output", str(tmp_path / "out.nc")])
    ds = xr.open_dataset(tmp_path / "out.nc")
    assert ds["2m_temperature"].dims == ("time", "realization", "lat", "lon")
    assert [ds["time"].values[k].year for k in (0, -1)] == [2015 + YEARS - 1, 2100]
    assert ds["2m_temperature"].attrs["cell_methods"] == "time: mean"
    assert "departures" in ds.attrs["comment"]
    with netCDF4.Dataset(tmp_path / "out.nc") as file:
        hours, edges = file["time"][:], file["time_bnds"][:]
        assert (edges[:, 1] - edges[:, 0] == 365 * 24).all()
        assert (hours == edges.mean(axis=1)).all()
    source = DataSet(scenarios).select([TEST])[0]
    years = projected_years(source, None, YEARS)
    expected = ProjectionModel(load_checkpoint(two), torch.device("cpu")).project(source, years)
    np.testing.assert_allclose(ds["total_precipitation_rate"][:, 1], expected[:, 1], rtol=1e-5, atol=1e-12)


def test_baselines_against_hand_made_regressions(scenarios: Path) -> None:
    dataset = DataSet(scenarios)
    sources, test = dataset.select(TRAIN), dataset.select([TEST])[0]
    names = ["cumulative_co2_emissions", *TARGETS]
    whole = np.concatenate([[fields(s, names, t) for t in range(s.steps)] for s in sources])
    period, years = ("1990", "2100"), [70, 80]
    climatology = TrainingMean(sources, TARGETS, period).project(test, years)
    np.testing.assert_allclose(climatology[1], whole[:, 1:].mean(0))
    weight_HW = np.cos(np.deg2rad(test.grid.lat))[:, None] * np.ones(16)
    mean_N = np.average(whole[:, 1].reshape(len(whole), -1), weights=weight_HW.ravel(), axis=1)
    emitted_N = whole[:, 0, 0, 0]
    b, a = np.polyfit(emitted_N, mean_N, 1)
    d, c = np.polyfit(mean_N, whole[:, 2, 3, 5], 1)
    emitted = fields(test, names, 80)[0, 0, 0]
    scaled = PatternScaling(sources, TARGETS, period).project(test, years)
    assert scaled[1, 1, 3, 5] == pytest.approx(c + d * (a + b * emitted), rel=1e-6)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"data": {"out_variables": TARGETS}}, "a climate projection takes model.variables and predicts model.projected"),
    ({"data": {"random_roll": True}}, "would move the continents"),
    ({"data": {"stage_to": "stage"}}, "data.stage_to: yearly data are small"),
    ({"data": {"period": ["2098", "2100"], "sources": TRAIN[1:]}}, "after 3 steps of history inside the period"),
    ({"model": {"variables": [*FORCINGS, "orography"]}}, "lacks orography, which is in model.variables"),
    ({"model": {"projected": ["surface_pressure"]}}, "lacks surface_pressure, which is in model.projected"),
    ({"model": {"projected": []}}, "a climate projection needs both"),
    ({"model": {"projected": FORCINGS[:1]}}, "is among model.variables too"),
    ({"model": {"projected": ["orography"]}}, "orography is static"),
    ({"model": {"projected": TARGETS * 2}}, "names a variable more than once"),
    ({"model": {"output_mode": "anomaly"}}, "a climate projection supports only full"),
    ({"model": {"years": -1}}, "model.years = -1: must be at least 0"),
    ({"model": {"kind": "resnet", "heads": 3}}, "not a multiple of model.heads = 3, which attend over the years"),
    ({"frozen": True}, "which are random without a checkpoint"),
    ({"frozen": True, "model": {"kind": "linear"}}, "a linear has no pretrained blocks"),
    ({"frozen": True, "checkpoint": "x", "train": {"zero_stage": 1}}, "use stage 0, where the frozen weights stay"),
    ({"data": {"period": ["2015", "2090"], "validation_period": ["2085", "2100"], "sources": TRAIN[1:]}}, "overlaps"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_configs_that_are_not_a_projection(
    changes: dict[str, Any], message: str, scenarios: Path, tmp_path: Path
) -> None:
    values = settings(scenarios, tmp_path / "run")
    for key, value in changes.items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    with pytest.raises(UserError, match=message):
        finetune(values, tmp_path)
    assert not (tmp_path / "run").exists()


def test_other_data_and_checkpoints_are_refused(
    scenarios: Path, make_dataset: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sub_daily = make_dataset()
    forecasting = write_checkpoint(tmp_path / "pre/checkpoints", sub_daily, embed_dim=16, depth=1, heads=2, patch=4)
    values = settings(scenarios, tmp_path / "run") | {"checkpoint": str(forecasting)}
    with pytest.raises(UserError, match="is of a forecasting model: add transfer: true"):
        finetune(values, tmp_path)
    with pytest.raises(UserError, match=r"has embed_dim = 16, the config says model.embed_dim = 32"):
        finetune(values | {"transfer": True, "model": values["model"] | {"embed_dim": 32}}, tmp_path)
    plain = {k: v for k, v in values["model"].items() if k not in ("years", "projected")}
    with pytest.raises(UserError, match=r"model.years = 0 makes a forecasting network"):
        finetune(values | {"model": plain}, tmp_path)
    with pytest.raises(UserError, match="frozen belongs to task projection: leave it out"):
        finetune(values | {"model": plain, "frozen": True, "task": "forecast"}, tmp_path)
    with pytest.raises(UserError, match=r"model.years belongs to task projection"):
        finetune(values | {"task": "forecast"}, tmp_path)
    values["data"] |= {"dataset": str(sub_daily), "sources": None}
    with pytest.raises(UserError, match=r"lacks cumulative_co2_emissions, .*, which is in model.variables"):
        finetune(values | {"checkpoint": None}, tmp_path)
    wide = values["model"] | {"height": 16}
    with pytest.raises(UserError, match="lies on a grid of 8 × 16, the model on 16 × 16"):
        finetune(settings(scenarios, tmp_path / "run") | {"model": wide}, tmp_path)
    with pytest.raises(UserError, match="is not yearly: a climate projection takes yearly means"):
        projected_years(next(iter(DataSet(sub_daily).sources.values())), None, YEARS)
    projection = finetune(settings(scenarios, tmp_path / "run"), tmp_path)
    both = json.dumps({"a": str(projection), "b": str(forecasting)})
    where = ["--source", TEST, "--period", '["2080", "2100"]', "--train_period", '["1990", "2100"]']
    common = ["--task", "projection", "--dataset", str(scenarios), "--run_folder", str(tmp_path / "eval")]
    evaluation = ["evaluate", *common, *where]
    one = ["--models", json.dumps({"a": str(projection)})]
    for arguments, message in (
        (["--models", both], "was trained for task forecast, not projection"),
        (one, "reference: 'damped persistence' is no label; there are a, climatology, pattern scaling"),
        ([*one, "--period", '["2015", "2016"]', "--reference", "a"], "no year with 3 years of input before it"),
        ([*one, "--dataset", str(sub_daily), "--source", "JCM-C", "--reference", "a"], "lacks .*, which is scored"),
        ([*one, "--unpaired", '{"x": "y"}', "--reference", "a"], "unpaired belongs to task downscaling: leave it out"),
        ([*one, "--variables", '["2m_temprature"]', "--reference", "a"], "not every model projects 2m_temprature"),
    ):
        with pytest.raises(UserError, match=message):
            run([*evaluation, *arguments])
    with monkeypatch.context() as launched:
        launched.setenv("RANK", "0")
        launched.setenv("WORLD_SIZE", "2")
        launched.setenv("LOCAL_RANK", "0")
        with pytest.raises(UserError, match="evaluate of task projection runs as one process: start it without torch"):
            run([*evaluation, *one, "--reference", "a"])
        with pytest.raises(UserError, match="predict runs as one process: start it without torchrun"):
            run(["predict", "--task", "projection", *one, "--input", str(scenarios), "--output", "x.nc"])
    assert not (tmp_path / "eval").exists()
    prediction = ["predict", "--task", "projection", *one, "--source", TEST]
    for arguments, message in (
        (["--input", str(tmp_path), "--output", "x.nc"], "a climate projection reads a packed data set"),
        (["--input", str(scenarios), "--output", "x.zarr"], r"must end in \.nc"),
        (["--input", str(scenarios), "--output", "x.nc", "--rollout_hours", "24"], "do not apply to a climate"),
        (["--input", str(scenarios), "--output", "x.nc", "--variables", '["2m_temprature"]'], "but not 2m_temprature"),
    ):
        with pytest.raises(UserError, match=message):
            run([*prediction, *arguments])
