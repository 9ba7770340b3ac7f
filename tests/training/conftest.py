"""Small training runs on synthetic data: a config file, and functions that run commands in this process or as ranks."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from climax_hpc.checkpoint.format import load_checkpoint
from climax_hpc.cli import run

TWO_SOURCES = {
    "A_synthetic_r1": {"channels": ("2m_temperature", "geopotential_500", "u_component_of_wind_850")},
    "B_synthetic_r1": {"channels": ("2m_temperature", "geopotential_500", "v_component_of_wind_850"), "years": 3},
}
VARIABLES = [
    "orography",
    "latitude",
    "2m_temperature",
    "geopotential_500",
    "u_component_of_wind_850",
    "v_component_of_wind_850",
]


@pytest.fixture
def settings(make_dataset: Callable[..., Path], tmp_path: Path) -> dict[str, Any]:
    """A pretraining config that runs for seconds, without dropout so that numbers of ranks can be compared exactly."""
    model = {"variables": VARIABLES, "height": 8, "width": 16, "patch": 2, "embed_dim": 16, "depth": 2, "heads": 2}
    return {
        "run_folder": str(tmp_path / "run"),
        "data": {"dataset": str(make_dataset(TWO_SOURCES)), "period": ["2001", "2003"], "micro_batch_size": 2},
        "model": model | {"dropout": 0.0, "drop_path": 0.0, "output_mode": "anomaly"},
        "optimizer": {"lr": 1e-3, "warmup_steps": 2},
        "train": {"steps": 6, "log_every": 1, "checkpoint_every": 3, "threads": 1},
    }


def write_config(settings: dict[str, Any], folder: Path, name: str = "config.yaml") -> str:
    """The settings as a YAML file."""
    path = folder / name
    path.write_text(yaml.safe_dump(settings))
    return str(path)


def train_here(settings: dict[str, Any], folder: Path, *arguments: str, verb: str = "pretrain") -> list[float]:
    """Run a command in this process; returns the losses of its run folder."""
    run([verb, "--config", write_config(settings, folder), *arguments])
    chosen = dict(zip(arguments[::2], arguments[1::2], strict=True)).get("--run_folder", settings["run_folder"])
    return losses(Path(chosen))


def train_ranks(
    launcher: list[str], settings: list[dict[str, Any]], folder: Path, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run pretraining as ranks of a launcher; several settings one after the other, in the same processes."""
    command = [*launcher, "-m", "climax_hpc", "pretrain", "--config", write_config(settings[0], folder)]
    if len(settings) > 1:
        runs = [["pretrain", "--config", write_config(each, folder, f"{n}.yaml")] for n, each in enumerate(settings)]
        script = folder / "runs.py"
        script.write_text(f"from climax_hpc.cli import main\nfor words in {runs!r}:\n    main(words)\n")
        command = [*launcher, str(script)]
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
    environment.pop("MASTER_ADDR", None)
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout, env=environment)


def torchrun(ranks: int) -> list[str]:
    """torchrun on this host."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]


def losses(run_folder: Path) -> list[float]:
    """Training losses by step from metrics.jsonl; steps must be 1, 2, 3, … without a repeat."""
    rows = [row for row in metrics(run_folder) if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]


def metrics(run_folder: Path) -> list[dict[str, Any]]:
    """All lines of metrics.jsonl."""
    return [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]


def distance(run: Path, other: Path) -> float:
    """Relative distance of the weights of two runs."""
    a, b = (torch.cat([w.flatten() for w in load_checkpoint(path).weights.values()]) for path in (run, other))
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(a))


def cut(run: Path, step: int) -> None:
    """Delete all checkpoints after `step`."""
    name = f"step_{step:08d}"
    for path in (run / "checkpoints").glob("step_*"):
        if path.name > name:
            shutil.rmtree(path)
    (run / "checkpoints" / "latest").write_text(name + "\n")
