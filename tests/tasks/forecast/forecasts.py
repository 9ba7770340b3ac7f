"""A small global data set, a model of the globe trained on it for two steps, and fine-tunings of that."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from climax_hpc.cli import run
from climax_hpc.config.inference import EvaluateConfig

CHANNELS = ("2m_temperature", "geopotential_500")
MODEL = {
    "variables": [*CHANNELS, "orography", "latitude"], "height": 16, "width": 32, "patch": 4, "embed_dim": 16,
    "depth": 1, "heads": 2, "dropout": 0.0, "drop_path": 0.0,
}  # fmt: skip
Train = Callable[..., Path]


def trainer(dataset: Path, folder: Path) -> Train:
    """train(name, verb="finetune", data={…}, model={…}, other sections and keys) -> run folder, after two steps."""

    def train(name: str, verb: str = "finetune", **changed: Any) -> Path:
        settings: dict[str, Any] = {
            "run_folder": str(folder / name),
            "data": {
                "dataset": str(dataset),
                "period": ["2001", "2003"],
                "micro_batch_size": 2,
                "max_lead_hours": 48.0,
            },
            "model": MODEL,
            "optimizer": {"lr": 1e-3, "warmup_steps": 1},
            "train": {"steps": 2, "log_every": 1, "threads": 1},
        }
        for key, value in changed.items():
            settings[key] = settings.get(key, {}) | value if isinstance(value, dict) else value
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(settings))
        run([verb, "--config", str(path)])
        return folder / name

    return train


def evaluation(dataset: Path, folder: Path, models: dict[str, Path], **changed: Any) -> EvaluateConfig:
    """A quick evaluation of the fourth year."""
    common: dict[str, Any] = {
        "run_folder": str(folder),
        "models": {label: str(path) for label, path in models.items()},
        "dataset": str(dataset),
        "source": "JCM-C",
        "period": ("2004", "2004"),
        "train_period": ("2001", "2003"),
        "lead_hours": (24,),
        "map_lead_hours": 24,
        "resamples": 0,
    }
    return EvaluateConfig(**common | changed)


def refused(action: Callable[[], object], message: str) -> None:
    """The action raises UserError with this pattern in one line."""
    from climax_hpc.errors import UserError

    with pytest.raises(UserError, match=message) as found:
        action()
    assert "\n" not in str(found.value)
