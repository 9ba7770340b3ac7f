"""With a second copy of the parameters in groups of ranks (`train.zero_hpz`), stage 3 trains to the same bits."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from climax_hpc.checkpoint.format import load_checkpoint
from climax_hpc.errors import UserError

from .conftest import cut, distance, losses, metrics, train_here
from .processes import Ranks, run_script

pytestmark = pytest.mark.slow

RANKS = 4
SHARED = {"sequence": 2}
LOW = {"precision": "bfloat16", "kind": "muon"}
PAIRS = {"float32": {}, "shared samples": SHARED, "bfloat16, Muon": LOW}
ALL_PARTITIONED = """
import sys
sys.path.insert(0, {folder!r})
from second_copy_ranks import partition_all
partition_all()
"""


def test_steps_are_the_same_bits_and_gather_in_the_group(tmp_path: Path) -> None:
    """Each parameter is gathered from all ranks once in a step, then in the group: forward and backward, two passes."""
    cases = {f"{name} {hpz}": case | {"hpz": hpz} for name, case in PAIRS.items() for hpz in (1, 2)}
    cases |= {"one group": {"hpz": 4}}
    found = run_script("second_copy_ranks.py", json.dumps(cases), ranks=RANKS, folder=tmp_path)
    for name in PAIRS:
        (plain, weights, size, gathered), (copied, same_weights, _, split) = found[f"{name} 1"], found[f"{name} 2"]
        assert copied == plain, name
        assert same_weights == weights, name
        assert set(gathered) == {"4"}, name
        assert gathered["4"] > 3 * size, name
        assert split == {"4": size, "2": gathered["4"] - size}, name
    assert found["one group"] == found["float32 1"]  # no copy is made
    assert len({weights for _, weights, *_ in found.values()}) == len(PAIRS)


@pytest.fixture
def at_stage_3(settings: dict[str, Any]) -> dict[str, Any]:
    """Two passes of each of four ranks in a step, with dropout, moving average and validation."""
    settings["model"] |= {"dropout": 0.1, "drop_path": 0.1}
    settings["data"] |= {"period": ["2001", "2002"], "validation_period": ["2003", "2003"], "micro_batches_per_step": 8}
    settings["optimizer"] = {"lr": 1e-2, "end_lr": 1e-3, "warmup_steps": 0}
    settings["train"] |= {"zero_stage": 3, "ema_decay": 0.9, "validate_every": 2, "validation_batches": 2}
    return settings


def in_run(settings: dict[str, Any], run: Path, hpz: int) -> dict[str, Any]:
    """The settings for a run folder."""
    return settings | {"run_folder": str(run), "train": settings["train"] | {"zero_hpz": hpz}}


def train(*settings: dict[str, Any]) -> None:
    """Train one after the other in the same four ranks, with every tensor partitioned."""
    preamble = ALL_PARTITIONED.format(folder=str(Path(__file__).parent))
    with Ranks(*settings, ranks=RANKS, preamble=preamble) as processes:
        statuses, _, errors = processes.wait(timeout=1800)
    assert statuses == [0] * RANKS, errors[-2000:]


def assert_same_bits(run: Path, other: Path) -> None:
    """Losses, validation losses and weights."""
    assert losses(run) == losses(other)
    validated = [[row["validation_loss"] for row in metrics(each) if "validation_loss" in row] for each in (run, other)]
    assert validated[0] == validated[1]
    assert len(validated[0]) == 3
    weights, expected = (load_checkpoint(each).weights for each in (run, other))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.exhaustive
def test_a_run_moves_between_with_and_without_a_second_copy(at_stage_3: dict[str, Any], tmp_path: Path) -> None:
    """Also from one rank, through DeepSpeed's universal form."""
    plain, copied, alone = (tmp_path / name for name in ("plain", "copied", "alone"))
    train(in_run(at_stage_3, copied, 2), in_run(at_stage_3, plain, 1))
    assert_same_bits(copied, plain)
    train_here(in_run(at_stage_3, alone, 1), tmp_path)
    moved = {tmp_path / "to_copy": (plain, 2), tmp_path / "from_copy": (copied, 1), tmp_path / "resumed": (copied, 2)}
    universal = tmp_path / "from_one_rank"
    for run, (source, _) in (moved | {universal: (alone, 2)}).items():
        shutil.copytree(source, run)
        cut(run, 3)
    train(*(in_run(at_stage_3, run, hpz) for run, (_, hpz) in moved.items()), in_run(at_stage_3, universal, 2))
    for run in moved:
        assert_same_bits(run, plain)
    assert losses(universal) == pytest.approx(losses(alone), rel=1e-5)
    assert distance(universal, alone) < 1e-3


def test_ranks_that_form_no_groups_are_refused(at_stage_3: dict[str, Any], tmp_path: Path) -> None:
    message = "train.zero_hpz = 2: 1 rank cannot form groups of 2: start a multiple of 2, or change train.zero_hpz"
    with pytest.raises(UserError, match=message):
        train_here(in_run(at_stage_3, tmp_path / "run", 2), tmp_path)
    assert not (tmp_path / "run").exists()
