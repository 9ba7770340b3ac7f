"""Downscaling: a GCM run from its own coarse-graining, NCEP to E-OBS, scores against brute force, refused input."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import yaml

from climax_hpc.checkpoint.format import load_checkpoint
from climax_hpc.cli import main, run
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.pairs import PairConfig, pair
from climax_hpc.errors import UserError
from climax_hpc.fields.grid import latitude_weights
from climax_hpc.inference.initial_conditions import ShardInitialConditions, choose_starts, date_of
from climax_hpc.tasks.downscaling.baselines import BiasCorrectedInterpolation, InterpolationBaseline
from climax_hpc.tasks.downscaling.coarse_input import CoarseReader
from climax_hpc.tasks.downscaling.pairs import PairedData, PairedSource
from climax_hpc.tasks.downscaling.scoring import TruthReader
from climax_hpc.utils.formatting import format_score

from ...synthetic import write_checkpoint

pytestmark = pytest.mark.slow

SOURCE = "JCM-C_piClim-control_r1i1p1f1"
FREE_RUNNING = "JCM-A_piClim-control_r1i1p1f1"
T2M, Z500 = "2m_temperature", "geopotential_500"
TRAIN, TEST = ["2001", "2003"], ["2004", "2004"]
CPU = torch.device("cpu")
SHARED_DATA = Path(__file__).parents[3].parent / "shared" / "data" / "climate4R.datasets"


@pytest.fixture(scope="module")
def gcm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of the sample at 11.25° and 5.625°, their pairs, and another run at 11.25°."""
    root = tmp_path_factory.mktemp("gcm")
    common: dict[str, Any] = {"input": "@sample", "variables": [T2M, Z500, "orography"], "train_period": TRAIN}
    pack(PackConfig(output=str(root / "coarse"), grid_spacing_deg=11.25, sources=[SOURCE], **common))
    pack(PackConfig(output=str(root / "fine"), grid_spacing_deg=5.625, sources=[SOURCE], **common))
    pack(PackConfig(output=str(root / "free"), grid_spacing_deg=11.25, sources=[FREE_RUNNING], **common))
    pair(PairConfig(coarse=str(root / "coarse"), fine=str(root / "fine"), output=str(root / "pairs.json")))
    return root


def training(root: Path, **model: Any) -> dict[str, Any]:
    """A finetune config of a few seconds on the GCM pairs."""
    small = {"height": 32, "width": 64, "patch": 4, "embed_dim": 32, "depth": 1, "heads": 2, "dropout": 0.0}
    small |= {"variables": ["orography", "latitude", T2M, Z500], "drop_path": 0.0, "output_mode": "anomaly"}
    return {
        "run_folder": str(root / "run"),
        "task": "downscaling",
        "data": {
            "dataset": str(root / "pairs.json"),
            "period": TRAIN,
            "micro_batch_size": 8,
            "micro_batches_per_step": 1,
        },
        "model": small | model,
        "optimizer": {"lr": 2e-3, "warmup_steps": 5, "weight_decay": 0.01},
        "train": {"steps": 30, "checkpoint_every": 30, "log_every": 10, "threads": 1},
    }


def evaluation(root: Path, models: dict[str, Path], **changes: Any) -> dict[str, Any]:
    return {
        "run_folder": str(root / "evaluation"),
        "task": "downscaling",
        "models": {label: str(path) for label, path in models.items()},
        "dataset": str(root / "pairs.json"),
        "source": SOURCE,
        "period": TEST,
        "train_period": TRAIN,
        "reference": "bilinear",
        "resamples": 200,
    } | changes


def run_verb(verb: str, settings: dict[str, Any], folder: Path) -> None:
    path = folder / f"{verb}.yaml"
    path.write_text(yaml.safe_dump(settings))
    run([verb, "--config", str(path)])


@pytest.fixture(scope="module")
def trained(gcm: Path) -> Path:
    """A model of the GCM pairs."""
    run_verb("finetune", training(gcm), gcm)
    return gcm / "run"


@pytest.fixture(scope="module")
def others(make_dataset: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of the other tasks."""
    root, dataset = tmp_path_factory.mktemp("others"), make_dataset()
    projection = {"mode": "full", "years": 2, "projected": ("diurnal_temperature_range",)}
    return {
        "FORECAST": write_checkpoint(root / "forecast", dataset),
        "PROJECTION": write_checkpoint(root / "projection", dataset, **projection),  # type: ignore[arg-type]
    }


@pytest.fixture(scope="module")
def scored(gcm: Path, trained: Path) -> dict[str, Any]:
    """Its evaluation."""
    run_verb("evaluate", evaluation(gcm, {"climax": trained}, unpaired={"another run": str(gcm / "free")}), gcm)
    content: dict[str, Any] = json.loads((gcm / "evaluation" / "evaluation.json").read_text())
    return content


def held_out(gcm: Path) -> tuple[PairedSource, list[int]]:
    paired = PairedData(gcm / "pairs.json").select(None)[0]
    return paired, [n for s in paired.within((TEST[0], TEST[1])) for n in range(s.first, s.first + s.steps)]


def test_scores_of_interpolation_against_brute_force(gcm: Path, scored: dict[str, Any]) -> None:
    paired, numbers = held_out(gcm)
    coarse = CoarseReader(paired.coarse, climatology=False).read([int(paired.coarse_N[n]) for n in numbers])
    truth = TruthReader(paired.fine, [T2M]).read([int(paired.fine_N[n]) for n in numbers])[:, 0]
    field = coarse.fields_BChw[:, paired.coarse.channels.index(T2M)]
    # One axis after the other with numpy's own interpolation; the ring closes at 360 degrees, rows end at the poles.
    here, there = paired.coarse.grid, paired.fine.grid
    ring = np.append(here.lon, here.lon[0] + 360)
    by_column = np.apply_along_axis(lambda row: np.interp(there.lon, ring, np.append(row, row[0])), 2, field)
    brute = np.apply_along_axis(lambda column: np.interp(there.lat, here.lat, column), 1, by_column)
    weight = np.broadcast_to(latitude_weights(there)[:, None], truth.shape[1:])
    error = np.sqrt(np.average(((brute - truth) ** 2).mean(axis=0), weights=weight))
    everywhere = np.broadcast_to(weight, truth.shape).ravel()
    moments = np.cov(np.stack([brute.ravel(), truth.ravel()]), aweights=everywhere)
    found = scored["scores"]["bilinear"][T2M]["0"]
    assert found["rmse"] == pytest.approx(error, rel=1e-9)
    assert found["bias"] == pytest.approx(np.average((brute - truth).mean(axis=0), weights=weight), abs=1e-9)
    assert found["pearson"] == pytest.approx(moments[0, 1] / np.sqrt(moments[0, 0] * moments[1, 1]), rel=1e-9)
    mirrored = np.sqrt(np.average(((brute[:, ::-1] - truth) ** 2).mean(axis=0), weights=weight))
    assert found["rmse"] < 0.5 * mirrored
    low, high = scored["intervals"]["bilinear"][T2M]["0"]["rmse"]
    assert low < found["rmse"] < high


def test_a_trained_model_beats_interpolation(scored: dict[str, Any]) -> None:
    for name in (T2M, Z500):
        scores = {label: by_name[name]["0"]["rmse"] for label, by_name in scored["scores"].items()}
        assert scores["bilinear"] < scores["nearest"]
        difference = scored["comparison"]["differences"]["climax"][name]["0"]
        assert scores["climax"] < scores["bilinear"]
        assert difference["interval"][1] < 0


def test_only_distributions_of_unpaired_fields_are_scored(scored: dict[str, Any]) -> None:
    found = scored["unpaired"]["another run"]
    assert (found["source"], found["paired"]) == (FREE_RUNNING, False)
    assert "not paired in time" in found["note"]
    assert set(found["scores"]) == {"climax", "bilinear", "nearest"}
    for by_name in found["scores"].values():
        assert set(by_name[T2M]) == {
            "mean_bias", "std_ratio", "q05_bias", "q50_bias", "q95_bias", "wasserstein", "perkins",
        }  # fmt: skip
    assert found["scores"]["climax"][T2M]["perkins"] < scored["distributions"]["climax"][T2M]["perkins"] <= 1


def test_the_report_has_every_score_and_flags_what_is_not_paired(gcm: Path, scored: dict[str, Any]) -> None:
    run(
        [
            "report",
            f"--evaluation={gcm / 'evaluation'}",
            f"--output={gcm / 'page.html'}",
            f"--figure={gcm / 'page.png'}",
        ]
    )
    page = (gcm / "page.html").read_text()
    assert "<h1>Downscaling scorecard</h1>" in page
    for label, by_name in scored["scores"].items():
        for name, by_lead in by_name.items():
            for metric in ("rmse", "mae", "bias", "pearson"):
                assert format_score(by_lead["0"][metric]) in page, (label, name, metric)
    highest = max(by_name[T2M]["0"]["pearson"] for by_name in scored["scores"].values())
    assert f"<b>{format_score(highest)}</b>" in page
    assert "another run (unpaired)" in page
    flagged = page[page.index('class="note unpaired"') :]
    assert f"Unpaired: {FREE_RUNNING} is not paired in time" in flagged
    assert format_score(scored["unpaired"]["another run"]["scores"]["climax"][T2M]["perkins"]) in flagged
    assert "Not comparable with the paper" in page
    assert page.count("data:image/png;base64,") == len(scored["variables"])
    assert (gcm / "page.png").stat().st_size > 5000


def test_predict_writes_cf_fields_on_the_fine_grid(gcm: Path, trained: Path, scored: dict[str, Any]) -> None:
    settings = {"models": {"a": str(trained)}, "input": str(gcm / "coarse"), "task": "downscaling"}
    settings |= {"climatology": str(gcm / "pairs.json"), "period": TEST}
    run_verb("predict", settings | {"output": str(gcm / "fine.nc")}, gcm)
    with xr.open_dataset(gcm / "fine.nc") as found:
        assert found[T2M].dims == ("time", "lat", "lon")
        assert (found[T2M].attrs["units"], found.sizes["lat"]) == ("K", 32)
        paired, numbers = held_out(gcm)
        truth = TruthReader(paired.fine, [T2M]).read([int(paired.fine_N[n]) for n in numbers])[:, 0]
        weights = np.broadcast_to(latitude_weights(paired.fine.grid)[:, None], truth.shape[1:])
        error = np.sqrt(np.average(((found[T2M].values - truth) ** 2).mean(axis=0), weights=weights))
    assert error == pytest.approx(scored["scores"]["climax"][T2M]["0"]["rmse"], rel=1e-4)  # the file is float32
    settings["models"] |= {"b": str(trained)}
    run_verb("predict", settings | {"output": str(gcm / "fine.zarr")}, gcm)
    with xr.open_zarr(gcm / "fine.zarr") as store:
        assert store[T2M].dims == ("time", "realization", "lat", "lon")


def coarse_file(gcm: Path, path: Path) -> None:
    """The held-out coarse fields as a NetCDF file: registry names, rows from the north."""
    states = ShardInitialConditions(PairedData(gcm / "pairs.json").select(None)[0].coarse)
    times = choose_starts(states, (TEST[0], TEST[1]), None)
    fields_NCHW = np.stack([states.read(t) for t in times])
    dates = [date_of(states.hours[t], states.calendar) for t in times]
    written = xr.Dataset(coords={"time": dates, "lat": states.grid.lat, "lon": states.grid.lon})
    for c, name in enumerate(states.channels):
        written[name] = (("time", "lat", "lon"), fields_NCHW[:, c], {"units": {T2M: "K", Z500: "m2 s-2"}[name]})
    written.isel(lat=slice(None, None, -1)).to_netcdf(path)


def test_files_that_are_not_packed_are_downscaled_alike(gcm: Path, trained: Path, tmp_path: Path) -> None:
    coarse_file(gcm, tmp_path / "coarse.nc")
    settings = {"models": {"a": str(trained)}, "task": "downscaling", "climatology": str(gcm / "pairs.json")}
    for name, given in (("packed", gcm / "coarse"), ("files", tmp_path / "coarse.nc")):
        output = str(tmp_path / f"{name}_fine.nc")
        run_verb("predict", settings | {"input": str(given), "period": TEST, "output": output}, tmp_path)
    with xr.open_dataset(tmp_path / "packed_fine.nc") as packed, xr.open_dataset(tmp_path / "files_fine.nc") as files:
        xr.testing.assert_allclose(files, packed, rtol=1e-6)
    fine = xr.open_dataset(tmp_path / "files_fine.nc")[[T2M, Z500]].load()
    fine.to_netcdf(tmp_path / "too fine.nc")
    other = settings | {"input": str(tmp_path / "too fine.nc"), "output": str(tmp_path / "again.nc")}
    with pytest.raises(UserError, match="regrid"):
        run_verb("predict", other, tmp_path)
    run_verb("predict", other | {"regrid": "conservative"}, tmp_path)
    with xr.open_dataset(tmp_path / "again.nc") as again:
        assert again[T2M].shape == fine[T2M].shape
        assert float(abs(again[T2M] - fine[T2M]).mean()) < 3.0  # its own coarse-graining, downscaled again


def test_a_forecast_of_a_downscaling_checkpoint_is_refused(gcm: Path, trained: Path) -> None:
    words = [
        "--models",
        json.dumps({"a": str(trained)}),
        "--input",
        str(gcm / "fine"),
        "--output",
        str(gcm / "no.zarr"),
    ]
    with pytest.raises(UserError, match="was trained for task downscaling, not forecast: set task: downscaling"):
        run(["predict", *words])


@pytest.mark.parametrize("kind", ["linear", "resnet", "unet"])
def test_the_other_networks_train_by_the_same_loop(gcm: Path, kind: str, tmp_path: Path) -> None:
    settings = training(gcm, kind=kind, embed_dim=8, output_mode="full") | {"run_folder": str(tmp_path / kind)}
    settings["train"] |= {"steps": 4, "checkpoint_every": 4}
    settings["data"] |= {"period": ["2001", "2002"], "validation_period": ["2003", "2003"]}
    run_verb("finetune", settings, tmp_path)
    metadata = load_checkpoint(tmp_path / kind).metadata
    assert metadata.training is not None
    assert metadata.training.task == "downscaling"


def test_bias_correction_restores_mean_and_spread_of_every_cell(gcm: Path) -> None:
    paired, numbers = held_out(gcm)
    coarse = CoarseReader(paired.coarse, climatology=False).read([int(paired.coarse_N[n]) for n in numbers])
    truth = TruthReader(paired.fine, [T2M]).read([int(paired.fine_N[n]) for n in numbers])
    truth[:, :, 3] = np.nan
    corrected = BiasCorrectedInterpolation(InterpolationBaseline(paired.coarse, paired.fine, [T2M], "bilinear"))
    corrected.learn(coarse, truth)
    found = corrected.fine(coarse)
    assert np.allclose(found.mean(axis=0), truth.mean(axis=0), equal_nan=True, atol=1e-6)
    assert np.allclose(found.std(axis=0), truth.std(axis=0), equal_nan=True, rtol=1e-4)
    assert np.isnan(found[:, :, 3]).all()


@pytest.mark.parametrize(
    ("verb", "changes", "message"),
    [
        ("finetune", {"data": {"dataset": "FINE"}}, "is a folder; downscaling takes the file that `climax-hpc pair`"),
        ("finetune", {"data": {"dataset": "absent.json"}}, "absent.json does not exist: expected pairs for downscal"),
        ("finetune", {"data": {"in_variables": [T2M, "temperature_850"]}}, "temperature_850 is not in model.variables"),
        (
            "finetune",
            {"checkpoint": "PROJECTION"},
            "is a climate projection and can only start task: projection",
        ),
        ("finetune", {"task": "projection"}, "model.years = 0 makes a forecasting network"),
        (
            "finetune",
            {"task": "downscale"},
            "task: unknown task 'downscale'; did you mean downscaling",
        ),
        ("finetune", {"data": {"random_roll": True}}, "need a global grid: switch them off to downscale"),
        ("finetune", {"data": {"period": ["1950", "1951"]}}, "has no time step in 1950 … 1951"),
        ("finetune", {"data": {"sources": ["ERA5"]}}, "no source 'ERA5'"),
        ("finetune", {"data": {"validation_period": ["2003", "2004"]}}, "overlaps the training period of source JCM"),
        ("finetune", {"model": {"height": 36}}, "a grid around the globe takes no margin"),
        ("finetune", {"model": {"variables": ["orography", "temperature_850"]}}, "has no input: the data hold 2m_temp"),
        ("evaluate", {"reference": "persistence"}, "reference: 'persistence' is no label"),
        ("evaluate", {"variables": ["temperature_850"]}, "has no output: the data hold 2m_temperature"),
        ("evaluate", {"models": {"bilinear": "RUN"}}, "the label 'bilinear' is that of a baseline"),
        ("evaluate", {"unpaired": {"x": "nowhere"}}, r"nowhere: holds no manifest\.json"),
        ("evaluate", {"regions": ["Europe"]}, "regions belongs to task forecast: leave it out"),
        ("evaluate", {"train_sources": ["x"]}, "train_sources belongs to task projection: leave it out"),
        ("evaluate", {"dataset": "absent.json"}, "absent.json does not exist: expected pairs for downscaling"),
        ("evaluate", {"models": {"a": "FORECAST"}}, "was trained for task forecast, not downscaling"),
        ("evaluate", {"models": {"a": "PROJECTION"}}, "was trained for task forecast, not downscaling"),
        ("predict", {"models": {"a": "FORECAST"}}, "was trained for task forecast, not downscaling"),
        (
            "predict",
            {"task": "projection", "climatology": None},
            "was trained for task downscaling, not projection",
        ),
        ("predict", {"variables": [T2M, "temperature_850"]}, "but not temperature_850; change the list"),
        ("predict", {"regrid": "bilinear"}, "regrid: does not apply to a packed data set"),
        ("predict", {"rollout_hours": 24.0}, "rollout_hours: does not apply to downscaling"),
        ("predict", {"climatology": None}, "downscaling needs the file of `climax-hpc pair`"),
        ("predict", {"output": "folder"}, r"must end in \.nc or \.zarr"),
    ],
)
def test_refused(
    gcm: Path,
    trained: Path,
    others: dict[str, Path],
    tmp_path: Path,
    verb: str,
    changes: dict[str, Any],
    message: str,
    capsys: Any,
) -> None:
    base = {
        "finetune": training(gcm),
        "evaluate": evaluation(gcm, {"climax": trained}),
        "predict": {"models": {"a": "RUN"}, "input": str(gcm / "coarse"), "task": "downscaling", "output": "out.nc"}
        | {"climatology": str(gcm / "pairs.json")},
    }[verb]
    for key, value in changes.items():
        base[key] = base[key] | value if isinstance(base.get(key), dict) and key in ("data", "model") else value
    text = yaml.safe_dump(base).replace("FINE", str(gcm / "fine")).replace("RUN", str(trained))
    for label, path in others.items():
        text = text.replace(label, str(path))
    settings = yaml.safe_load(text)
    settings["run_folder"] = str(tmp_path / "new")
    if verb == "predict":
        del settings["run_folder"]
        settings["output"] = str(tmp_path / settings["output"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(SystemExit) as stop:
        main([verb, "--config", str(tmp_path / "config.yaml")])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message.replace("\\", "") in error
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_several_processes_are_refused(gcm: Path, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"a": tmp_path / "never read"}
    written = {"models": {"a": "never read"}, "input": str(gcm / "coarse"), "output": "x.nc", "task": "downscaling"}
    settings = {"evaluate": evaluation(gcm, models), "predict": written}[verb]
    for key, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(UserError, match=rf"{verb}.* runs as one process: start it without torchrun"):
        run_verb(verb, settings, tmp_path)


@pytest.mark.shared_data
def test_ncep_to_eobs_beats_interpolation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real pairs over Iberia, five winters held out: T2m is significantly better than interpolation."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"{SHARED_DATA} is not here")
    monkeypatch.chdir(tmp_path)
    for name in ("ncep", "eobs"):
        run(["pack", "--config", f"downscaling_{name}", "--input", str(SHARED_DATA)])
    sets = [str(tmp_path / "runs/downscaling" / name) for name in ("ncep", "eobs")]
    run(["pair", "--coarse", sets[0], "--fine", sets[1], "--output", "runs/downscaling/pairs.json"])
    small = ["--train.steps", "60", "--train.checkpoint_every", "60", "--train.validate_every", "60"]
    run(["finetune", "--config", "downscaling_finetune", *small, "--model.embed_dim", "32", "--model.depth", "1"])
    models = json.dumps({"ClimaX": "runs/downscaling/climax"})
    run(["evaluate", "--config", "downscaling_evaluate", "--models", models])
    found = json.loads((tmp_path / "runs/downscaling/evaluation/evaluation.json").read_text())
    rmse = {label: scores[T2M]["0"]["rmse"] for label, scores in found["scores"].items()}
    assert rmse["ClimaX"] < rmse["bilinear, bias-corrected"] < rmse["bilinear"] < rmse["nearest"]
    assert found["comparison"]["differences"]["ClimaX"][T2M]["0"]["interval"][1] < 0
    precipitation = {label: scores["total_precipitation_rate"]["0"] for label, scores in found["scores"].items()}
    assert all(np.isfinite(list(values.values())).all() for values in precipitation.values())
