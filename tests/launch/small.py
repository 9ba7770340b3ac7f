"""Settings of runs that take seconds on synthetic data, and a clean environment, for tests of job submission."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

VARIABLES = ("2m_temperature", "geopotential_500", "u_component_of_wind_850", "temperature_850")


def forget_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove all variables of launchers, and use one thread per process."""
    for name in [n for n in os.environ if n.startswith(("SLURM_", "CLIMAX_HPC_", "SUBMITIT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def write_settings(path: Path, dataset: Path, run_folder: str | Path, *, steps: int, **more: Mapping[str, Any]) -> Path:
    """A config of pretrain or finetune (ZeRO 2, dropout, two micro-batches a step); `more`: further sections."""
    model = {"variables": ["orography", "latitude", *VARIABLES], "height": 8, "width": 16, "patch": 2, "embed_dim": 16}
    settings = {
        "run_folder": str(run_folder),
        "data": {
            "dataset": str(dataset),
            "period": ["2001", "2003"],
            "micro_batch_size": 2,
            "micro_batches_per_step": 2,
        },
        "model": model | {"depth": 2, "heads": 2, "output_mode": "anomaly"},
        "optimizer": {"lr": 1e-3, "warmup_steps": 2},
        "train": {"steps": steps, "log_every": 1, "checkpoint_every": 20, "threads": 1, "zero_stage": 2},
    }
    path.write_text(yaml.safe_dump(settings | more))
    return path


def write_evaluation(path: Path, dataset: Path) -> Path:
    """A config of evaluate on the held-out year; the pipeline sets models and folder."""
    settings = {
        "run_folder": "from the pipeline",
        "models": {"from": "the pipeline"},
        "dataset": str(dataset),
        "source": "JCM-C",
        "period": ["2004", "2004"],
        "train_period": ["2001", "2003"],
        "lead_hours": [24, 48],
        "map_lead_hours": 24,
        "threads": 1,
    }
    path.write_text(yaml.safe_dump(settings))
    return path
