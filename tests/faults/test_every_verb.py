"""Every verb that writes, at places that cannot be written: one line, a status, and nothing half-written."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

from climax_hpc.cli import main
from climax_hpc.config.inference import EvaluateConfig
from climax_hpc.evaluation.evaluate import evaluate

from ..data_prep.conftest import six_hourly, write_cmip6
from .places import (
    below_a_file,
    few_files,
    fills,
    full,
    in_use,
    limited,
    long_name,
    no_inodes,
    read_only,
    taken,
    unreadable,
)  # fmt: skip

Words = Callable[[Path], list[str]]
VARIABLES = ["2m_temperature", "geopotential_500"]


@pytest.fixture(scope="module")
def verbs(
    make_dataset: Callable[..., Path],
    make_checkpoint: Callable[..., Path],
    make_evaluation: Callable[..., EvaluateConfig],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Words]:
    """Verb -> its words for an output; they write at least 40 kB, and succeed at an ordinary place."""
    root = tmp_path_factory.mktemp("verbs")
    data = make_dataset(years=4, steps_per_year=12, channels=VARIABLES)
    fine = make_dataset(years=4, steps_per_year=12, channels=VARIABLES, shape=(16, 32))
    checkpoint = str(make_checkpoint(data, depth=2))
    scored = {"model": checkpoint}
    evaluation = EvaluateConfig(
        run_folder=str(root / "evaluation"), models=scored, dataset=str(data), source="JCM-C", period=("2004", "2004"),
        train_period=("2001", "2003"), lead_hours=(6, 24), map_lead_hours=24, resamples=0,
    )  # fmt: skip
    evaluate(evaluation)
    write_cmip6(root / "in", "tas", times=six_hourly(20))
    training = root / "pretrain.yaml"
    training.write_text(yaml.safe_dump(_training(data)))
    scoring = root / "evaluate.yaml"
    scoring.write_text(yaml.safe_dump(_without(evaluation)))
    predict = ["predict", "--models", json.dumps(scored), "--input", str(data), "--lead_hours", "[6,24]"]
    predict += ["--period", '["2004-01-01", "2004-01-01"]', "--start_every_hours", "24", "--output"]
    return {
        "pack": lambda o: ["pack", "--input", str(root / "in"), "--output", str(o), "--grid_spacing_deg", "22.5"],
        "repack": lambda o: ["repack", "--dataset", str(fine), "--output", str(o), "--chunks", "1x5"],
        "pair": lambda o: ["pair", "--coarse", str(data), "--fine", str(fine), "--output", str(o / "pairs.json")],
        "convert": lambda o: ["convert", checkpoint, "--output", f"{o}.safetensors"],
        "predict folder": lambda o: [*predict, str(o)],
        "predict file": lambda o: [*predict, f"{o}.nc"],
        "predict store": lambda o: [*predict, f"{o}.zarr"],
        "evaluate": lambda o: ["evaluate", "--config", str(scoring), "--run_folder", str(o)],
        "report": lambda o: [
            "report", "--evaluation", evaluation.run_folder, "--output", f"{o}.html", "--figure", f"{o}.png",
        ],
        "inspect": lambda o: ["inspect", str(data), "--output", str(o)],
        "pretrain": lambda o: ["pretrain", "--config", str(training), "--run_folder", str(o)],
        "submit": lambda o: [
            "submit", "pretrain", "--settings", str(training), "--folder", str(o), "--where.executor", "local",
        ],
    }  # fmt: skip


VERBS = (
    "pack", "repack", "pair", "convert", "predict folder", "predict file", "predict store", "evaluate", "report",
    "inspect", "pretrain", "submit",
)  # fmt: skip


def _training(data: Path) -> dict[str, object]:
    model = {"variables": ["latitude", *VARIABLES], "height": 8, "width": 16, "patch": 4, "embed_dim": 32}
    return {
        "run_folder": "",
        "data": {"dataset": str(data), "period": ["2001", "2003"], "micro_batch_size": 2},
        "model": model | {"depth": 1, "heads": 2},
        "optimizer": {"warmup_steps": 1},
        "train": {"steps": 2, "log_every": 1, "threads": 1},
    }


def _without(config: EvaluateConfig) -> dict[str, object]:
    keys = ("models", "dataset", "source", "period", "train_period", "lead_hours", "map_lead_hours", "resamples")
    found = {key: getattr(config, key) for key in keys}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


FITS = {
    (verb, fault)
    for fault, verbs in {
        fills: ("pair", "submit"),  # they write too little
        taken: ("submit",),
        few_files: ("pretrain", "submit"),  # gloo calls it a lost rank
        in_use: ("pair", "convert", "predict file", "report", "submit"),  # one file: the last to finish wins
    }.items()
    for verb in verbs
}
"""Verbs that succeed all the same."""
RESUMES = ("pack", "repack", "pretrain", "submit")
"""Verbs that keep what is finished for the next run; the files of submit are submitit's."""
OF_MANY = (full, fills, no_inodes, read_only, below_a_file, taken, long_name, unreadable, few_files)
FAULTS = [
    pytest.param(limited, id="limited"),
    pytest.param(in_use, id="in_use"),
    *(pytest.param(fault, id=fault.__name__, marks=pytest.mark.faults) for fault in OF_MANY),
]
"""The first two are the sample of the default suite."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def left(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("verb", VERBS)
def test_one_line_and_nothing_half_written(
    verbs: dict[str, Words],
    verb: str,
    fault: Callable[[Path], object],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if (verb, fault) in FITS:
        return
    with fault(tmp_path) as output:  # type: ignore[attr-defined]
        before = set() if fault in (unreadable, few_files) else left(tmp_path)
        status: object = 0
        try:
            main(verbs[verb](output))
        except SystemExit as stop:
            status = stop.code
    after = left(tmp_path) - before
    error = capfd.readouterr().err
    if fault is few_files and status == 0:  # numbers below the limit were free
        return
    assert status in (1, 2)
    lines = [line for line in error.splitlines() if "climax-hpc" in line or "Error" in line or "Traceback" in line]
    assert len(lines) == 1, error
    assert lines[0].startswith("climax-hpc: error: ")
    print(lines[0])
    if fault is in_use:
        assert "is in use by process" in lines[0]
    half = {name for name in after if "climax_hpc-" in name or "partial" in name or "lock" in name}
    if fault is not few_files:  # no folder can be read then, so none can be cleaned
        assert not (half if verb in RESUMES else after), sorted(after)


@pytest.mark.faults
@pytest.mark.parametrize("verb", VERBS[:-1])
def test_ordinary_places_are_written_with_the_permissions_of_the_umask(
    verbs: dict[str, Words], verb: str, tmp_path: Path
) -> None:
    before = os.umask(0o027)
    try:
        main(verbs[verb](tmp_path / "o"))
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o750 if path.is_dir() else 0o640), path
    assert not [name for name in left(tmp_path) if name.rsplit("/", 1)[-1].startswith(".")]
    shutil.rmtree(tmp_path)
