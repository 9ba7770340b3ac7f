"""What every rank reads at a start: the fit is done once for a run, files are opened by one rank or when needed."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from climax_hpc.checkpoint.format import find, load_checkpoint
from climax_hpc.data import normalisation_fit
from climax_hpc.data.shared_work import computed_in_shares
from climax_hpc.training.kept_normalisation import FILE_NAME

from .conftest import train_here
from .file_calls import small_training
from .processes import Ranks
from .system_calls import calls_in

pytestmark = pytest.mark.slow

_OPENS = """
import atexit, json, os, sys
opened = []
sys.addaudithook(lambda event, words: opened.append(str(words[0])) if event == "open" else None)
atexit.register(lambda: open({folder!r} + f"/{{os.environ['RANK']}}.json", "w").write(json.dumps(opened)))
"""
"""Writes the paths that a rank has opened from Python; before HDF5 opens a file, Python does, to check its header."""


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The blocks of time steps that are read to fit a normalisation."""
    read: list[Any] = []
    block_sums = normalisation_fit._block_sums

    def noting(block: Any, *arguments: Any) -> Any:
        read.append(block)
        return block_sums(block, *arguments)

    monkeypatch.setattr(normalisation_fit, "_block_sums", noting)
    return read


def longer(settings: dict[str, Any]) -> dict[str, Any]:
    """The same run with one more step."""
    return settings | {"train": settings["train"] | {"steps": settings["train"]["steps"] + 1}}


def test_a_second_start_does_not_fit_again(tmp_path: Path, blocks: list[Any]) -> None:
    settings = small_training(tmp_path, shards_per_year=1)
    train_here(settings, tmp_path)
    fitted, kept = len(blocks), (tmp_path / "run" / FILE_NAME).read_bytes()
    first = load_checkpoint(tmp_path / "run").metadata.normalisation
    train_here(longer(settings), tmp_path)
    assert len(blocks) == fitted > 0
    assert (tmp_path / "run" / FILE_NAME).read_bytes() == kept
    assert load_checkpoint(tmp_path / "run").metadata.normalisation == first


@pytest.mark.parametrize("damage", ["edited", "cut off", "of other settings"])
def test_a_file_that_does_not_fit_is_fitted_again(
    tmp_path: Path, blocks: list[Any], damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = small_training(tmp_path, shards_per_year=1)
    train_here(settings, tmp_path)
    path, fitted = tmp_path / "run" / FILE_NAME, len(blocks)
    kept = path.read_bytes()
    if damage == "of other settings":
        other = settings | {"data": settings["data"] | {"period": ["2001", "2002"]}}
        train_here(other, tmp_path, "--run_folder", str(tmp_path / "other"))
        path.write_bytes((tmp_path / "other" / FILE_NAME).read_bytes())
        fitted = len(blocks)
    elif damage == "edited":
        path.write_bytes(kept.replace(b"0.9", b"0.8", 1))
    else:
        path.write_bytes(kept[: len(kept) // 2])
    train_here(longer(settings), tmp_path)
    assert len(blocks) > fitted
    assert path.read_bytes() == kept
    assert (FILE_NAME in capfd.readouterr().err) == (damage != "of other settings")


def test_a_start_that_was_killed_after_the_fit_continues(tmp_path: Path, blocks: list[Any]) -> None:
    """The folder then holds the normalisation alone."""
    settings = small_training(tmp_path, shards_per_year=1)
    train_here(settings, tmp_path, "--run_folder", str(tmp_path / "other"))
    fitted = len(blocks)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / FILE_NAME).write_bytes((tmp_path / "other" / FILE_NAME).read_bytes())
    assert len(train_here(settings, tmp_path)) == 1
    assert len(blocks) == fitted


def test_the_bits_do_not_depend_on_the_number_of_ranks(tmp_path: Path) -> None:
    settings = small_training(tmp_path, shards_per_year=1)
    settings["data"]["micro_batches_per_step"] = 3
    settings["model"]["variables"] = [*settings["model"]["variables"], "2m_temperature_tendency"]
    train_here(settings, tmp_path, "--run_folder", str(tmp_path / "alone"))
    with Ranks(settings, ranks=3) as ranks:
        statuses, _, errors = ranks.wait()
    assert statuses == [0, 0, 0], errors
    alone, shared = ((tmp_path / name / FILE_NAME).read_bytes() for name in ("alone", "run"))
    assert alone == shared
    assert b"2m_temperature_tendency" in alone


def opens_of(settings: dict[str, Any], folder: Path) -> list[list[str]]:
    """Paths of data set and run folder that each of two ranks opens in one start."""
    with Ranks(settings, ranks=2, preamble=_OPENS.format(folder=str(folder))) as ranks:
        statuses, _, errors = ranks.wait()
    assert statuses == [0, 0], errors
    opened = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    return [[path for path in paths if path.startswith(str(folder))] for paths in opened]


@pytest.mark.parametrize("shards_per_year", [2, 12])
def test_opens_of_a_rank_do_not_grow_with_the_shards(tmp_path: Path, shards_per_year: int) -> None:
    settings = small_training(tmp_path, shards_per_year=shards_per_year)
    first = opens_of(settings, tmp_path)
    assert not [path for path in first[1] if path.endswith(("manifest.json", FILE_NAME))]
    second = opens_of(longer(settings), tmp_path)
    # Two micro-batches of one sample each: two shards and the climatology at most, each checked and then opened.
    shards = [path for path in second[1] if path.endswith(".h5")]
    assert 0 < len(shards) <= 2 * 2 * 3
    engine = [path for path in second[1] if "deepspeed" in Path(path).parts and "step_00000001" in path]
    assert {Path(path).name for path in engine} == {
        "mp_rank_00_model_states.pt", "zero_pp_rank_1_mp_rank_00_optim_states.pt",
    }  # fmt: skip
    assert not [path for path in second[1] if path.endswith(("manifest.json", "SHA256SUMS.json", "training.json"))]


def test_resuming_does_not_ask_for_the_files_of_other_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed asks on every rank whether the files of all ranks exist."""
    settings = small_training(tmp_path, shards_per_year=1)
    train_here(settings, tmp_path)
    asked: list[str] = []
    exists = os.path.exists

    def noting(path: Any) -> bool:
        asked.append(str(path))
        return exists(path)

    monkeypatch.setattr(os.path, "exists", noting)
    assert len(train_here(longer(settings), tmp_path)) == 2
    assert find(tmp_path / "run").name == "step_00000002"
    assert not [path for path in asked if "zero_pp_rank" in path]


def test_shares_without_a_group_are_computed_in_order() -> None:
    sizes = [2, 0, 3]
    found = computed_in_shares(sizes, lambda n: np.full(sizes[n], float(n)))
    assert [terms.tolist() for terms in found] == [[0.0, 0.0], [], [2.0, 2.0, 2.0]]


def test_calls_are_counted_by_place() -> None:
    trace = [
        '12 openat(AT_FDCWD</home>, "/d/a.h5", O_RDONLY) = 3</d/a.h5>',
        '12 pread64(3</d/a.h5>, "x", 1, 0) = 1',
        "12 <... pread64 resumed>, 1, 0) = 1",
        '12 newfstatat(AT_FDCWD</home>, "/data/b", 0x1, 0) = 0',
        '13 unlink("/run/c") = 0',
    ]
    folders = {"dataset": str(Path("/", "d")), "run_folder": str(Path("/", "run"))}
    assert calls_in(trace, folders) == {"dataset": 2, "run_folder": 1}
