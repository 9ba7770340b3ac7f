"""At ZeRO stage 3 rank 0 writes the model states for all ranks, which hold no weights; older checkpoints still open."""

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from climax_hpc.checkpoint.format import ENGINE, find
from climax_hpc.training.deepspeed_io import fingerprint, loading_no_code

from .conftest import cut, distance, losses, train_here
from .processes import Ranks

MODEL_STATES = "zero_pp_rank_{}_mp_rank_00_model_states.pt"
OPTIM_STATES = "zero_pp_rank_{}_mp_rank_00_optim_states.pt"
LOW = {"precision": "bfloat16", "ema_decay": 0.9}
RUNS: dict[str, dict[str, Any]] = {"this": {}, "earlier": {}, "this in bfloat16": LOW}
# As earlier versions wrote them: the ranks differ, so that each writes its own.
DIFFERING = """
import os, climax_hpc.training.deepspeed_io as io
save = io.HashingCheckpointEngine.save
def differing(self, state_dict, path):
    if "earlier" in path and "model_states" in path:
        state_dict["of_rank"] = os.environ["RANK"]
    save(self, state_dict, path)
io.HashingCheckpointEngine.save = differing
"""
# Writes which model states a rank opens.
OPENS = (
    DIFFERING
    + """
import atexit, json, sys
opened = []
def note(event, words):
    if event == "open" and str(words[0]).endswith("model_states.pt"):
        opened.append(str(words[0]))
sys.addaudithook(note)
atexit.register(lambda: open({folder!r} + f"/{{os.environ['RANK']}}.json", "w").write(json.dumps(opened)))
"""
)


def train(runs: dict[Path, dict[str, Any]], ranks: int, preamble: str = DIFFERING) -> None:
    """Train all runs in the same processes."""
    with Ranks(*runs.values(), ranks=ranks, preamble=preamble) as started:
        statuses, _, errors = started.wait(timeout=1200)
    assert statuses == [0] * ranks, errors


def engine_files(run: Path) -> set[str]:
    """Names of the engine's files in the newest checkpoint."""
    return {path.name for path in (find(run) / ENGINE).iterdir()}


def copied(runs: dict[Path, dict[str, Any]], suffix: str, step: int) -> dict[Path, dict[str, Any]]:
    """Copies of run folders, interrupted after a step."""
    copies = {}
    for run, settings in runs.items():
        copy = run.with_name(run.name + suffix)
        shutil.copytree(run, copy)
        cut(copy, step)
        copies[copy] = settings | {"run_folder": str(copy)}
    return copies


@pytest.fixture
def runs(settings: dict[str, Any], tmp_path: Path) -> dict[Path, dict[str, Any]]:
    """Settings by run folder: with checkpoints of this version and of earlier ones."""
    settings["model"] |= {"dropout": 0.1}
    settings["data"] |= {"micro_batch_size": 1, "micro_batches_per_step": 6}
    settings["optimizer"] = {"lr": 1e-2, "end_lr": 1e-3, "warmup_steps": 2, "weight_decay": 0.1}
    train = settings["train"] | {"zero_stage": 3, "checkpoint_every": 2, "keep_checkpoints": 3}
    folders = {tmp_path / name: options for name, options in RUNS.items()}
    return {run: settings | {"run_folder": str(run), "train": train | options} for run, options in folders.items()}


@pytest.mark.slow
@pytest.mark.parametrize("others", [1, pytest.param(3, marks=pytest.mark.exhaustive)])
def test_resumed_on_the_same_and_on_other_ranks(runs: dict[Path, dict[str, Any]], tmp_path: Path, others: int) -> None:
    train(runs, 2)
    for run in runs:
        names = engine_files(run)
        prefix = "bf16_" if "bfloat16" in run.name else ""
        assert {prefix + OPTIM_STATES.format(rank) for rank in range(2)} < names
        states = [MODEL_STATES.format(rank) for rank in range(2 if "earlier" in run.name else 1)]
        assert {name for name in names if "model_states" in name} == set(states)
        with loading_no_code():
            found = [torch.load(find(run) / ENGINE / name) for name in states]
        assert not any(tensor.numel() for each in found for tensor in each["module"].values())
        assert len({each.pop("of_rank", "none") for each in found}) == len(found)
        assert len({fingerprint(each) for each in found}) == 1

    again = copied(runs, " again", 4)
    train(again, 2, OPENS.format(folder=str(tmp_path)))
    opened = [path for path in json.loads((tmp_path / "1.json").read_text()) if "step_00000004" in path]
    assert {Path(path).name for path in opened if "this" in path} == {MODEL_STATES.format(0)}
    assert {Path(path).name for path in opened if "earlier" in path} == {MODEL_STATES.format(1)}
    for run, resumed in zip(runs, again, strict=True):
        assert losses(resumed) == losses(run)
        assert distance(resumed, run) == 0

    elsewhere = copied(runs, " elsewhere", 2)
    if others == 1:
        for run_settings in elsewhere.values():
            train_here(run_settings, tmp_path)
    else:
        train(elsewhere, others)
    back = copied(elsewhere, " back", 4)
    train(back, 2)
    for moved in (elsewhere, back):
        for run, resumed in zip(runs, moved, strict=True):
            assert losses(resumed) == pytest.approx(losses(run), rel=1e-3)
            assert not list((resumed / "checkpoints").glob(".*"))
        this, earlier, *_ = moved
        assert losses(this) == losses(earlier)
        assert distance(this, earlier) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [MODEL_STATES.format(0), OPTIM_STATES.format(1)])
def test_a_missing_file_is_refused_in_one_line(settings: dict[str, Any], tmp_path: Path, name: str) -> None:
    settings["train"] |= {"zero_stage": 3, "steps": 2, "checkpoint_every": 1, "keep_checkpoints": 2}
    run = Path(settings["run_folder"])
    train({run: settings}, 2)
    path = find(run) / ENGINE / name
    path.unlink()
    with Ranks(settings, ranks=2) as started:
        statuses, _, errors = started.wait()
    assert statuses[0] == 2
    assert len(errors.strip().splitlines()) == 1
    assert f"checkpoint file {path} is missing: the checkpoint is damaged" in errors
    assert "resume from it with --resume_from step_00000001" in errors


def test_deepspeed_has_the_functions_that_are_replaced() -> None:
    """Of the engine they are private; another version of DeepSpeed may name or call them differently."""
    from deepspeed.runtime.engine import DeepSpeedEngine

    asked = inspect.signature(DeepSpeedEngine._get_all_ckpt_names)
    named = inspect.signature(DeepSpeedEngine._get_ckpt_name)
    assert list(asked.parameters) == ["self", "checkpoints_path", "tag"]
    assert list(named.parameters) == ["self", "checkpoints_path", "tag", "mp_placeholder", "pp_placeholder"]
    assert "self._get_all_ckpt_names(load_dir, tag)" in inspect.getsource(DeepSpeedEngine._load_checkpoint)
    saved = inspect.getsource(DeepSpeedEngine._save_checkpoint)
    assert "self.checkpoint_engine.save(state_dict=state, path=save_path)" in saved


STATE = {"module": {"w": torch.zeros(2, 3)}, "shapes": [torch.Size([2, 3])], "steps": 3, "names": ["a", "b"]}


def test_equal_states_have_equal_fingerprints() -> None:
    equal = {
        "module": {"w": torch.zeros(3, 2).T},
        "shapes": [torch.Size([2, 3])],
        "steps": 3,
        "names": ["a", "".join("b")],
    }
    assert fingerprint(equal) == fingerprint(STATE)


@pytest.mark.parametrize(
    "change",
    [
        {"module": {"w": torch.zeros(3, 2)}}, {"module": {"w": torch.zeros(2, 3, dtype=torch.int32)}},
        {"module": {"w": torch.tensor([[0.0, 0, 0], [0, 0, -0.0]])}}, {"module": {"v": torch.zeros(2, 3)}},
        {"shapes": [(2, 3)]}, {"shapes": [torch.Size([2, 3]), []]}, {"steps": 4}, {"steps": 3.0}, {"steps": None},
        {"names": ["ab"]}, {"names": ["a"], "b": []}, {"names": [["a"], "b"]}, {"more": None},
    ],
)  # fmt: skip
def test_other_states_have_other_fingerprints(change: dict[str, Any]) -> None:
    assert fingerprint(STATE | change) != fingerprint(STATE)
