"""A tiny chain of real files, from CMIP6 to a report, that every fuzzer damages copies of; written by the commands."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ...data_prep.conftest import six_hourly, write_cmip6

MODEL = {
    "variables": ["land_sea_mask", "orography", "latitude", "2m_temperature", "geopotential_500"],
    "height": 4, "width": 8, "patch": 4, "embed_dim": 8, "depth": 1, "heads": 2, "decoder_depth": 1,
    "mlp_ratio": 2.0, "dropout": 0.0, "drop_path": 0.0, "output_mode": "anomaly",
}  # fmt: skip
DATA = {
    "dataset": "data", "period": ["2001", "2001"], "max_lead_hours": 24.0, "micro_batch_size": 2,
    "micro_batches_per_step": 2,
}  # fmt: skip
TRAIN = {"steps": 4, "checkpoint_every": 2, "log_every": 1, "threads": 1, "keep_checkpoints": 2}
OPTIMIZER = {"lr": 1e-3, "warmup_steps": 1}
PACK = {"input": "cmip6", "train_period": ["2001", "2001"]}

CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "pack": PACK | {"output": "out", "grid_spacing_deg": 45.0},
    "pack_fine": PACK | {"output": "fine", "grid_spacing_deg": 22.5},
    "pair": {"coarse": "data", "fine": "fine", "output": "out.json"},
    "pretrain": {"run_folder": "out", "data": DATA, "model": MODEL, "optimizer": OPTIMIZER, "train": TRAIN},
    "finetune": {
        "run_folder": "out", "checkpoint": "run", "data": DATA, "model": MODEL, "optimizer": OPTIMIZER,
        "train": TRAIN | {"steps": 1},
    },
    "evaluate": {
        "run_folder": "out", "models": {"run": "run"}, "dataset": "data", "source": "TEST-1",
        "period": ["2002", "2002"], "train_period": ["2001", "2001"], "lead_hours": [6.0, 24.0],
        "map_lead_hours": 24.0, "resamples": 100, "threads": 1,
    },
    "predict": {
        "models": {"model": "run"}, "input": "data", "output": "out.nc", "lead_hours": [6.0, 24.0],
        "period": ["2002-01-02", "2002-01-02"], "start_every_hours": 24.0,
    },
    "downscale": {
        "run_folder": "out", "task": "downscaling", "data": DATA | {"dataset": "pairs.json"},
        "model": MODEL | {"height": 8, "width": 16, "output_mode": "full"}, "optimizer": OPTIMIZER,
        "train": TRAIN | {"steps": 1},
    },
    "report": {"evaluation": "evaluation", "runs": {"pretraining": "run"}, "output": "out.html"},
    "convert": {"source": "run", "output": "out.safetensors"},
    "inspect": {"dataset": "data", "output": "out"},
    "verify": {"dataset": "data"},
    "repack": {"dataset": "data", "output": "out", "chunks": "1x5"},
    "status": {"run": "run"},
    "submit": {"what": "sweep", "folder": "out", "settings": "finetune.yaml", "sweep": {"seeds": [1, 2]},
               "where": {"executor": "local"}, "dry_run": True},
    "plan": {"model": MODEL, "data": DATA, "device": "a100-80", "devices_per_node": 1},
    "doctor": {"folder": "run", "json": "out.json"},
}  # fmt: skip
"""Settings of each verb, all paths relative to the folder of the chain; what a verb writes is named out…"""


def write_chain(folder: Path) -> None:
    """Write everything into the current folder with the commands themselves."""
    from climax_hpc.cli import run

    write_raw(folder / "cmip6")
    for name, settings in CONFIGS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(dict(settings), sort_keys=False))
    steps: list[tuple[str, str, list[str]]] = [
        ("pack", "pack", ["--output", "data"]),
        ("pack", "pack_fine", []),
        ("pair", "pair", ["--output", "pairs.json"]),
        ("pretrain", "pretrain", ["--run_folder", "run"]),
        ("evaluate", "evaluate", ["--run_folder", "evaluation"]),
        ("convert", "convert", ["--output", "model.safetensors"]),
    ]
    steps += [("report", "report", []), ("inspect", "inspect", []), ("status", "status", []), ("submit", "submit", [])]
    for verb, config, words in steps:
        run([verb, "--config", f"{config}.yaml", *words])
    shutil.rmtree(folder / "run" / "tensorboard")
    shutil.rmtree(folder / "out")
    (folder / "out.html").unlink()


def write_raw(folder: Path) -> None:
    """Three days of tas and zg in each of two years, and the two static fields, as CMIP6 files on a 15° grid."""
    axes: dict[str, Any] = {"time_units": "days since 2001-01-01", "frequency": "6hrPt"}
    for year in (0, 1):
        for name, levels in (("tas", None), ("zg", [500.0])):
            times = six_hourly(12, start_day=365.0 * year)
            write_cmip6(folder, name, times=times, plev_hpa=levels, part=f"_{2001 + year}", **axes)
    shape = (12, 24)
    random = np.random.default_rng(0)
    for name, values in (("orog", 1000 * random.random(shape)), ("sftlf", 100.0 * (random.random(shape) > 0.5))):
        write_cmip6(folder, name, table="fx", frequency="fx", values=values, cell_methods="area: mean")
