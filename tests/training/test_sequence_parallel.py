"""Ranks that share the patches of a sample train as one rank does, at every ZeRO stage and in every layout."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from climax_hpc.checkpoint.format import find
from climax_hpc.errors import UserError
from climax_hpc.training.state import TrainingState

from .conftest import cut, distance, losses, metrics, train_here
from .processes import Ranks, run_script

pytestmark = pytest.mark.slow

Layout = tuple[int, int]
"""Replicas, ranks of each."""
LAYOUTS: list[Layout] = [(1, 1), (2, 1), (1, 2), (2, 2), (1, 4), (4, 1)]
STAGES = range(4)
CONV = {"blocks": "conv", "levels": 2, "depth": 1}
CASES: dict[str, dict[str, Any]] = {
    "stage 0": {"stage": 0},
    "stage 1": {"stage": 1},
    "stage 2, recomputed": {"stage": 2, "model": {"activation_checkpointing": True, "drop_path": 0.5}},
    "stage 3": {"stage": 3},
    "roll-out": {"stage": 0, "rollout": 3},
    "conv": {"stage": 0, "model": CONV | {"input_skip": True, "drop_path": 0.5}},
    "conv, stage 3, recomputed": {"stage": 3, "model": CONV | {"activation_checkpointing": True}},
    "conv, region": {"stage": 0, "model": CONV | {"input_skip": True, "edges": "window"}},
    "conv, first pole, roll-out": {"stage": 2, "rollout": 2, "model": CONV | {"edges": "first_pole"}},
    "members": {"stage": 3, "members": 2, "model": {"noise_dim": 3, "dropout": 0.0}},
    "conv, members": {"stage": 1, "members": 2, "model": CONV | {"noise_dim": 3, "dropout": 0.0}},
    "resnet": {"stage": 1, "model": {"kind": "resnet"}},
    "unet": {"stage": 2, "model": {"kind": "unet", "depth": 1}},
    "linear": {"stage": 0, "model": {"kind": "linear"}},
}


def assert_right(cases: dict[str, dict[str, Any]], *, ranks: int, folder: Path) -> None:
    """Steps of plain gradient descent: only rounding differs.

    The derivative of the CRPS jumps where members cross each other or the target, so rounding moves single cells more.
    """
    found = run_script("sequence_ranks.py", json.dumps(cases), ranks=ranks, folder=folder)
    assert list(found) == list(cases)
    for case, (loss, moved, smallest, largest) in found.items():
        assert loss < 1e-6, case
        jumps = "members" in case
        assert moved < (1e-4 if jumps else 1e-5), case
        slack = 0.01 if jumps else 0.001
        assert 1 - slack < smallest <= largest < 1 + slack, case


def test_steps_of_two_ranks_that_share_samples_are_those_of_one(tmp_path: Path) -> None:
    assert_right({name: case | {"sequence": 2} for name, case in CASES.items()}, ranks=2, folder=tmp_path)


@pytest.mark.exhaustive
@pytest.mark.parametrize("sequence", [1, 2, 4])
def test_steps_of_four_ranks_in_every_layout_are_those_of_one(sequence: int, tmp_path: Path) -> None:
    fits = {name: case for name, case in CASES.items() if sequence < 4 or name != "unet"}
    cases = {name: case | {"sequence": sequence} for name, case in fits.items()}
    cases |= {f"vit, stage {stage}": {"stage": stage, "sequence": sequence} for stage in range(4)}
    assert_right(cases, ranks=4, folder=tmp_path)


@pytest.fixture
def shared(settings: dict[str, Any]) -> dict[str, Any]:
    """Four heads and four patch rows, dropout and drop path, augmentation, validation; rates that change much."""
    settings["model"] |= {"heads": 4, "dropout": 0.1, "drop_path": 0.1}
    settings["data"] |= {"period": ["2001", "2002"], "validation_period": ["2003", "2003"]}
    settings["data"] |= {"micro_batches_per_step": 4, "random_roll": True, "random_flip": True}
    settings["optimizer"] = {"lr": 1e-2, "end_lr": 1e-3, "warmup_steps": 0}
    settings["train"] |= {"steps": 4, "checkpoint_every": 2, "ema_decay": 0.9}
    settings["train"] |= {"validate_every": 2, "validation_batches": 2}
    return settings


def in_layout(settings: dict[str, Any], run: Path, layout: Layout, **train: Any) -> dict[str, Any]:
    """The settings for a run in this layout."""
    own = settings["train"] | {"sequence_parallel": layout[1]} | train
    return settings | {"run_folder": str(run), "train": own}


def name(layout: Layout) -> str:
    """For a folder or a table."""
    return f"{layout[0]}x{layout[1]}"


def train_in(layout: Layout, *settings: dict[str, Any]) -> None:
    """Train one after the other in the same processes."""
    ranks = layout[0] * layout[1]
    with Ranks(*settings, ranks=ranks) as processes:
        statuses, _, errors = processes.wait(timeout=1800)
    assert statuses == [0] * ranks, errors[-2000:]


def validation(run: Path) -> list[float]:
    """Validation losses in order of the steps."""
    return [row["validation_loss"] for row in metrics(run) if "validation_loss" in row]


def difference(run: Path, alone: Path) -> tuple[float, float]:
    """Largest relative difference of a training or validation loss, and relative distance of the weights."""
    pairs = [(losses(run), losses(alone)), (validation(run), validation(alone))]
    assert len(validation(alone)) > 1
    found = [abs(a / b - 1) for ours, right in pairs for a, b in zip(ours, right, strict=True)]
    return max(found), distance(run, alone)


def assert_same(run: Path, alone: Path) -> None:
    """Losses to 1e-5, weights to what rounding and AdamW make of it."""
    loss, weights = difference(run, alone)
    assert loss < 1e-5
    assert weights < 1e-3


def test_runs_that_move_between_layouts_are_one_run(shared: dict[str, Any], tmp_path: Path) -> None:
    """Steps 1 and 2 on one rank, 3 and 4 on two that share samples, 5 and 6 on two that do not."""
    shared["train"] |= {"steps": 6, "zero_stage": 3, "keep_checkpoints": 3}
    alone, run = tmp_path / "alone", tmp_path / "run"
    train_here(shared | {"run_folder": str(alone)}, tmp_path)
    shutil.copytree(alone, run)
    cut(run, 2)
    train_in((1, 2), in_layout(shared, run, (1, 2)))
    assert_same(run, alone)
    assert TrainingState.read(find(run) / "training.json").ranks == 2
    cut(run, 4)
    train_in((2, 1), in_layout(shared, run, (2, 1)))
    assert_same(run, alone)


Differences = tuple[float, float]
"""Largest relative difference of a loss, relative distance of the weights."""


@pytest.mark.exhaustive
def test_thirty_steps_in_every_layout(shared: dict[str, Any], tmp_path: Path) -> None:
    """Runs at every ZeRO stage, and runs that change from each layout to each other one after step 20, are one run.

    That is the run of one rank at stage 0. Each layout's processes train all its runs. The moves to a layout take the
    stages in turn. With `-s`, prints the table of docs/guides/sequence-parallelism.md.
    """
    shared["train"] |= {"steps": 30, "checkpoint_every": 20, "validate_every": 10}
    folders = {(layout, stage): tmp_path / f"{name(layout)}_{stage}" for layout in LAYOUTS for stage in STAGES}
    alone, rows = folders[(1, 1), 0], []
    print_row("layout", [f"ZeRO {stage}" for stage in STAGES])
    print_row("---", ["---"] * len(STAGES))
    for layout in LAYOUTS:
        train_in(layout, *(in_layout(shared, folders[layout, n], layout, zero_stage=n) for n in STAGES))
        rows.append(print_differences(name(layout), [[folders[layout, n]] for n in STAGES], alone))
    for after in LAYOUTS:
        moved: list[list[Path]] = [[] for _ in STAGES]
        for before, stage in moves_to(after):
            run = tmp_path / f"{name(before)}to{name(after)}_{stage}"
            shutil.copytree(folders[before, stage], run)
            cut(run, 20)
            moved[stage].append(run)
        train_in(after, *(in_layout(shared, run, after, zero_stage=n) for n in STAGES for run in moved[n]))
        rows.append(print_differences(f"moved to {name(after)}", moved, alone))
    assert max(loss for row in rows for loss, _ in row) < 1e-5
    assert max(weights for row in rows for _, weights in row) < 1e-4  # 4e-6 on an AMD EPYC


def moves_to(after: Layout) -> list[tuple[Layout, int]]:
    """The layouts that runs move from, each with its ZeRO stage: all stages occur."""
    shift = LAYOUTS.index(after)
    return [(before, (shift + n) % len(STAGES)) for n, before in enumerate(each for each in LAYOUTS if each != after)]


def print_differences(title: str, runs: list[list[Path]], alone: Path) -> list[Differences]:
    """Print a row of the table: of each ZeRO stage, the largest differences of some runs from that of one rank."""
    row = []
    for of_stage in runs:
        found = [difference(run, alone) for run in of_stage]
        row.append((max(loss for loss, _ in found), max(weights for _, weights in found)))
    print_row(title.replace("x", " × "), [f"{loss:.1e}, {weights:.1e}" for loss, weights in row])
    return row


def print_row(title: str, cells: list[str]) -> None:
    """A row of a table in Markdown."""
    print(f"| {title} | " + " | ".join(cells) + " |", flush=True)


COMPILED = """
import atexit, torch
from climax_hpc.training import compilation
compilation.compiler_problem = lambda device: None
usual = torch.nn.Module.compile
torch.nn.Module.compile = lambda self: usual(self, backend={backend!r})
atexit.register(lambda: print("graphs:", torch._dynamo.utils.counters["stats"]["unique_graphs"]))
"""


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.exhaustive)])
def test_compiled_blocks(shared: dict[str, Any], tmp_path: Path, backend: str) -> None:
    """Losses of two ranks are those of blocks that are not compiled, without dropout: compiled ones draw another."""
    shared["model"] |= {"dropout": 0.0, "drop_path": 0.0}
    alone, run = tmp_path / "alone", tmp_path / "run"
    train_here(shared | {"run_folder": str(alone)}, tmp_path)
    with Ranks(in_layout(shared, run, (1, 2), compile=True), ranks=2, preamble=COMPILED.format(backend=backend)) as two:
        statuses, output, errors = two.wait(timeout=1800)
    assert statuses == [0, 0], errors[-2000:]
    graphs = [int(line.removeprefix("graphs: ")) for line in output.splitlines() if line.startswith("graphs: ")]
    assert len(graphs) == 2
    assert min(graphs) >= 2  # training, validation
    assert_same(run, alone)


def test_a_region_and_a_roll_out(shared: dict[str, Any], tmp_path: Path) -> None:
    """Europe on the grid of 8 × 16 cells has too few rows of patches; the box has four."""
    shared["data"] |= {"random_roll": False, "random_flip": False}
    region = shared | {"data": shared["data"] | {"region": [-60, 60, 0, 180], "sources": ["A"]}}
    rollout = {"min_lead_hours": 6.0, "max_lead_hours": 6.0, "rollout_steps": 2, "sources": ["A"]}
    rolled = shared | {"data": shared["data"] | rollout}
    runs = {"region": region, "rolled": rolled}
    for name, each in runs.items():
        train_here(each | {"run_folder": str(tmp_path / f"{name}1")}, tmp_path)
    train_in((1, 2), *(in_layout(each, tmp_path / f"{name}2", (1, 2)) for name, each in runs.items()))
    for name in runs:
        assert_same(tmp_path / f"{name}2", tmp_path / f"{name}1")


@pytest.mark.parametrize(
    ("ranks", "micro_batches", "message"),
    [
        (1, 4, "train.sequence_parallel = 2: 1 rank cannot form groups of 2: start a multiple of 2"),
        (4, 3, "2 groups of 2 ranks cannot share data.micro_batches_per_step = 3 micro-batches evenly"),
    ],
)
def test_ranks_that_form_no_groups(
    shared: dict[str, Any], tmp_path: Path, ranks: int, micro_batches: int, message: str
) -> None:
    shared["data"]["micro_batches_per_step"] = micro_batches
    shared["train"]["sequence_parallel"] = 2
    if ranks == 1:
        with pytest.raises(UserError, match=message):
            train_here(shared, tmp_path)
        return
    with Ranks(shared, ranks=ranks) as processes:
        statuses, _, errors = processes.wait()
    assert statuses == [2] * ranks, errors
    assert errors.count("climax-hpc: error: ") == 1
    assert message in errors
    assert not (tmp_path / "run" / "config.yaml").exists()
