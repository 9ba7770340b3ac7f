"""Fixtures for several test folders: small packed data sets and checkpoints."""

import gc
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from climax_hpc.config.inference import EvaluateConfig

from .synthetic import SyntheticSource, write_checkpoint, write_dataset

MakeDataset = Callable[..., Path]
MakeEvaluation = Callable[..., EvaluateConfig]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Processes that a test starts must not use the address of this process's process group."""
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that hold a slow test come first: no worker may be left with one when the others have finished."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """What all imports made is never garbage: each training ends with `gc.collect`, which would look at all of it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def make_dataset(tmp_path_factory: pytest.TempPathFactory) -> MakeDataset:
    """make_dataset(sources={full name: {field: value}}, seed=0, **fields of every source) -> new data set folder.

    Fields are those of `synthetic.SyntheticSource` (channels, years, steps_per_year, shape, phi, missing, …). Without
    `sources` it has one, `JCM-C_synthetic_r1i1p1f1`, with 4 years of 48 steps on 8 × 16 cells. Every call gives a
    folder of its own, which may be changed; the same data set is computed once.
    """
    written: dict[bytes, Path] = {}

    def make(sources: Mapping[str, Mapping[str, Any]] | None = None, *, seed: int = 0, **fields: Any) -> Path:
        common = SyntheticSource(**fields)
        chosen = sources or {"JCM-C_synthetic_r1i1p1f1": {}}
        specs = {name: replace(common, **own) for name, own in chosen.items()}
        key = pickle.dumps((specs, seed))
        if key not in written:
            written[key] = write_dataset(tmp_path_factory.mktemp("original"), specs, seed=seed)
        return Path(shutil.copytree(written[key], tmp_path_factory.mktemp("dataset"), dirs_exist_ok=True))

    return make


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """make_checkpoint(dataset, source="JCM-C", mode="anomaly", seed=0, **ModelConfig fields) -> checkpoint folder."""

    def make(dataset: Path, **options: Any) -> Path:
        return write_checkpoint(tmp_path_factory.mktemp("run") / "checkpoints", dataset, **options)

    return make


@pytest.fixture(scope="session")
def make_evaluation(make_checkpoint: Callable[..., Path]) -> MakeEvaluation:
    """make_evaluation(dataset, labels=("anomaly", "full"), **fields of the config) -> config of an evaluation.

    It scores two new checkpoints, one of each output mode, under these labels in the last of four years.
    """

    def make(dataset: Path, *, labels: tuple[str, str] = ("anomaly", "full"), **fields: Any) -> EvaluateConfig:
        models = {
            label: str(make_checkpoint(dataset, mode=m)) for label, m in zip(labels, ("anomaly", "full"), strict=True)
        }
        common = {
            "run_folder": "",
            "models": models,
            "dataset": str(dataset),
            "source": "JCM-C",
            "period": ("2004", "2004"),
            "train_period": ("2001", "2003"),
            "lead_hours": (6, 24, 72),
        }
        return EvaluateConfig(**common | fields)

    return make
