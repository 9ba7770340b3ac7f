"""Writes the files of tests/compatibility with the version of climax_hpc that is installed; see README.md there.

It calls the command line alone, so that it runs with any version: `python make_files.py FOLDER SCENARIOS`, where
SCENARIOS holds what that version's module `scenarios` wrote (a toy climate in ClimateBench's layout).
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np

LAT, LON = np.arange(-82.5, 90, 15), np.arange(0, 360, 15.0)
VARIABLES = ["land_sea_mask", "orography", "latitude", "2m_temperature", "geopotential_500"]
YEARS = (2001, 2002)
DAYS = 5
MODEL = {
    "variables": VARIABLES, "height": 8, "width": 16, "patch": 4, "embed_dim": 8, "depth": 1, "heads": 2,
    "decoder_depth": 1, "mlp_ratio": 2.0, "dropout": 0.0, "drop_path": 0.0, "output_mode": "anomaly",
}  # fmt: skip
DATA = {"dataset": "data", "period": ["2001", "2001"], "max_lead_hours": 24.0, "group_size": 2, "groups_per_step": 2}
TRAIN = {"steps": 8, "checkpoint_every": 4, "keep_checkpoints": 2, "log_every": 1, "threads": 1, "ema_decay": 0.5}
OPTIM = {"lr": 5e-2, "end_lr": 1e-3, "warmup_steps": 2}


def write_cmip6(folder: Path) -> None:
    """Six-hourly `tas` and `zg` of the first days of two years, and two static fields, on a 15° grid."""
    random = np.random.default_rng(0)
    shape = (len(LAT), len(LON))
    profile = np.cos(np.deg2rad(LAT))[:, None]
    _write(folder, "orog", "fx", "m", None, 1000 * np.broadcast_to(profile, shape) * (random.random(shape) > 0.5))
    _write(folder, "sftlf", "fx", "%", None, 100.0 * (random.random(shape) > 0.6))
    for year in YEARS:
        days = np.arange(4 * DAYS) / 4
        stamps = (year - 2001) * 365 + days
        for name, units, mean, spread in (("tas", "K", 280.0, 6.0), ("zg", "m", 5500.0, 70.0)):
            waves = np.sin(2 * np.pi * (days[:, None, None] / 5 + LON / 360)) * profile
            values = mean + spread * (waves + 2 * profile + 0.3 * random.standard_normal((len(days), *shape)))
            if name == "zg":
                values[:, 5, 7] = np.nan
            _write(folder, name, "6hrPlevPt", units, stamps, values)


def _write(folder: Path, name: str, table: str, units: str, stamps: Any, values: Any) -> None:
    part = "" if stamps is None else f"_{round(stamps[0] / 365) + 2001}"
    with netCDF4.Dataset(folder / f"{name}_{table}_TEST-1_historical_r1i1p1f1_gn{part}.nc", "w") as file:
        file.setncatts(
            {"source_id": "TEST-1", "experiment_id": "historical", "variant_label": "r1i1p1f1", "table_id": table}
            | {"variable_id": name, "frequency": "fx" if stamps is None else "6hrPt", "grid_label": "gn"}
            | {"mip_era": "CMIP6"}
        )
        axes = {
            "time": (stamps, {"units": "days since 2001-01-01", "calendar": "noleap", "standard_name": "time"}),
            "plev": ([50000.0] if name == "zg" else None, {"units": "Pa", "standard_name": "air_pressure"}),
            "lat": (LAT, {"units": "degrees_north", "standard_name": "latitude"}),
            "lon": (LON, {"units": "degrees_east", "standard_name": "longitude"}),
        }
        dimensions = [axis for axis, (points, _) in axes.items() if points is not None]
        for axis in dimensions:
            points, attributes = axes[axis]
            file.createDimension(axis, len(points))
            variable = file.createVariable(axis, "f8", (axis,))
            variable.setncatts(attributes)
            variable[:] = points
        variable = file.createVariable(name, "f4", dimensions, fill_value=1e20)
        variable.setncatts({"units": units, "cell_methods": "area: mean" + ("" if stamps is None else " time: point")})
        variable[:] = np.ma.masked_invalid(values.reshape([len(file.dimensions[d]) for d in dimensions]))


def climax_hpc(verb: str, settings: dict[str, Any]) -> None:
    """Run one verb in the current folder on settings written as a file."""
    Path("settings.yaml").write_text(json.dumps(settings))  # JSON is YAML
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "climax_hpc", verb, "--config", "settings.yaml"], check=True, env=environment)


def losses(run: str) -> list[float]:
    """Loss of every step."""
    rows = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def forecasts(checkpoint: str, **settings: Any) -> dict[str, list[float]]:
    """All values forecast from one start, or a downscaled field, by registry name, in the order of the file."""
    one = {"period": ["2002-01-02", "2002-01-02"], "start_every_hours": 24.0}
    predict = {"models": {"model": checkpoint}, "input": "data", "output": "forecast.nc", "lead_hours": [6.0, 24.0]}
    climax_hpc("predict", predict | one | settings)
    return values_of("forecast.nc", VARIABLES[3:])


def values_of(file: str, names: list[str]) -> dict[str, list[float]]:
    """The values in a file of `predict`, which is removed."""
    with netCDF4.Dataset(file) as content:
        found = {name: content[name][:].astype(float).filled(np.nan).ravel().tolist() for name in names}
    Path(file).unlink()
    return found


def make_projection(scenarios: Path) -> dict[str, list[float]]:
    """A packed scenario, and a climate projection trained on its first half; the years that it projects."""
    source = "NorESM2-LM_ssp245_mean"
    pack = {"input": str(scenarios), "output": "scenario", "layout": "climatebench", "frequency": "yr"}
    pack |= {
        "grid_spacing_deg": 45.0,
        "climatology": False,
        "allow_constant": True,
        "sources": [source],
        "compression": "gzip",
    }
    climax_hpc("pack", pack)
    forcings = ["cumulative_co2_emissions", "methane_emissions"]
    model = MODEL | {"variables": forcings, "height": 4, "width": 8, "patch": 2, "output_mode": "full"}
    model |= {"years": 3, "projected": ["2m_temperature"]}
    data = {"dataset": "scenario", "period": ["2015", "2060"], "group_size": 2, "groups_per_step": 2}
    train = TRAIN | {"steps": 2, "ema_decay": 0.0}
    settings = {"run_folder": "years", "task": "projection", "data": data, "model": model, "optim": OPTIM}
    climax_hpc("finetune", settings | {"train": train})
    climax_hpc("convert", {"source": "years", "output": "projection.safetensors"})
    shutil.rmtree("years")
    predict = {"models": {"model": "projection.safetensors"}, "input": "scenario", "task": "projection"}
    climax_hpc("predict", predict | {"source": source, "period": ["2098", "2100"], "output": "forecast.nc"})
    return values_of("forecast.nc", ["2m_temperature"])


def make(scenarios: Path) -> None:
    """Write everything into the current folder."""
    Path("cmip6").mkdir()
    write_cmip6(Path("cmip6"))
    pack = {"input": "cmip6", "regrid": "conservative", "train_period": ["2001", "2001"]}
    climax_hpc("pack", pack | {"output": "data", "grid_spacing_deg": 22.5})
    climax_hpc("pack", pack | {"output": "coarse", "grid_spacing_deg": 45.0, "climatology": False})
    climax_hpc("pair", {"coarse": "coarse", "fine": "data", "output": "pairs.json"})
    settings = {"run_folder": "run", "data": DATA, "model": MODEL, "optim": OPTIM, "train": TRAIN}
    climax_hpc("pretrain", settings)
    expected: dict[str, Any] = {"losses": losses("run")}
    shutil.rmtree("run/checkpoints/step_00000008")  # what an interrupted run leaves
    Path("run/checkpoints/latest").write_text("step_00000004\n")
    metrics = Path("run/metrics.jsonl")
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:4]))
    shutil.rmtree("run/tensorboard")
    short = TRAIN | {"steps": 2, "ema_decay": 0.0}
    regional = DATA | {"region": [0.0, 90.0, 0.0, 180.0]}
    climax_hpc("finetune", settings | {"run_folder": "box", "checkpoint": "run", "data": regional, "train": short})
    climax_hpc("convert", {"source": "box", "output": "regional.safetensors"})
    downscaling = {"dataset": "pairs.json", "period": ["2001", "2001"], "group_size": 2, "groups_per_step": 2}
    full = {"model": MODEL | {"output_mode": "full"}, "train": short}
    climax_hpc("finetune", settings | full | {"run_folder": "fine", "task": "downscaling", "data": downscaling})
    climax_hpc("convert", {"source": "fine", "output": "downscaling.safetensors"})
    expected["forecasts"] = {
        "run": forecasts("run"),
        "regional": forecasts("regional.safetensors"),
        "downscaling": forecasts(
            "downscaling.safetensors", input="coarse", task="downscaling", climatology="pairs.json"
        ),
    }
    expected["forecasts"]["projection"] = make_projection(scenarios)
    climax_hpc(
        "evaluate",
        {"run_folder": "evaluation", "models": {"run": "run"}, "dataset": "data", "source": "TEST-1"}
        | {"period": ["2002", "2002"], "train_period": ["2001", "2001"], "lead_hours": [6.0, 24.0]}
        | {"map_lead_hours": 24.0, "resamples": 100},
    )
    for name in ("cmip6", "box", "fine"):
        shutil.rmtree(name)
    Path("settings.yaml").unlink()
    Path("expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    target, climate = (Path(word).resolve() for word in sys.argv[1:])
    target.mkdir(parents=True)
    os.chdir(target)
    make(climate)
