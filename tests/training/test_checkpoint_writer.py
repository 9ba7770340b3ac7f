"""Checkpoints written while training goes on: same bits, stop signals, errors and hangs during a write."""

import os
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import climax_hpc.training.task
from climax_hpc.checkpoint.format import checkpoints_in, find, verify
from climax_hpc.data.sampler import Sampler
from climax_hpc.distributed import process_group
from climax_hpc.distributed.signals import EXIT_RANK_LOST, Stopped
from climax_hpc.errors import UserError
from climax_hpc.training import checkpoint_writer
from climax_hpc.training.checkpoint_writer import CheckpointWriter
from climax_hpc.training.deepspeed_io import HashingCheckpointEngine, host_copy

from .conftest import losses, metrics, train_here
from .processes import Ranks, logged_steps, state
from .test_guards import spikes
from .test_hang import PATIENT_START, endless
from .test_resume import CASES, cut

pytestmark = pytest.mark.slow


def before_the_first_write(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """Call `happens` in the writing thread before the first checkpoint is written."""
    write, calls = HashingCheckpointEngine.write_postponed, []

    def late(self: HashingCheckpointEngine) -> None:
        calls.append(0)
        if len(calls) == 1:
            happens()
        write(self)

    monkeypatch.setattr(HashingCheckpointEngine, "write_postponed", late)


def until_step(run: Path, step: int) -> None:
    """Wait until training has gone on to `step`; fails in the thread, and so in the run, if it does not."""
    end = time.monotonic() + 60
    while logged_steps(run) < step:
        assert time.monotonic() < end, "training waits for the checkpoint"
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("stage", "precision", "ema_decay"),
    [pytest.param(*case, marks=() if case[0] in (1, 3) else pytest.mark.exhaustive) for case in CASES],
)
def test_training_goes_on_and_changes_nothing(
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: int,
    precision: str,
    ema_decay: float,
) -> None:
    settings["train"] |= {"zero_stage": stage, "precision": precision, "ema_decay": ema_decay}
    whole, run = tmp_path / "whole", tmp_path / "run"
    waiting = settings | {"train": settings["train"] | {"background_checkpoints": False}, "run_folder": str(whole)}
    expected = train_here(waiting, tmp_path)
    before_the_first_write(monkeypatch, lambda: until_step(run, 5))
    assert train_here(settings, tmp_path) == expected
    cut(run, 3)
    assert train_here(settings, tmp_path) == expected  # resumed from the one that was written two steps late
    for name in ("step_00000003", "step_00000006"):
        ours, theirs = (load_file(folder / "checkpoints" / name / "weights.safetensors") for folder in (run, whole))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_without_a_thread(settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CheckpointWriter, "_run", lambda *unused: pytest.fail("a thread"))
    settings["train"]["background_checkpoints"] = False
    train_here(settings, tmp_path)
    assert [path.name for path in checkpoints_in(tmp_path / "run" / "checkpoints")] == [
        "step_00000003",
        "step_00000006",
    ]


def test_a_stop_signal_during_a_write(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings["train"] |= {"steps": 100_000, "checkpoint_every": 3, "keep_checkpoints": 9}
    run = tmp_path / "run"

    def signalled() -> None:
        until_step(run, 4)
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.5)

    before_the_first_write(monkeypatch, signalled)
    with pytest.raises(Stopped):
        train_here(settings, tmp_path)
    written = checkpoints_in(run / "checkpoints")
    assert [path.name for path in written] == ["step_00000003", f"step_{logged_steps(run):08d}"]
    assert find(run) == written[1]
    for path in written:
        verify(path)


def test_a_failing_run_completes_the_checkpoint(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    right = climax_hpc.training.task.batch_loss

    def failing(*arguments: Any) -> torch.Tensor:
        if logged_steps(run) == 4:
            raise UserError("a fault")
        return right(*arguments)

    monkeypatch.setattr(climax_hpc.training.task, "batch_loss", failing)
    before_the_first_write(monkeypatch, lambda: (until_step(run, 4), time.sleep(0.5))[0])
    with pytest.raises(UserError, match="a fault"):
        train_here(settings, tmp_path)
    assert find(run).name == "step_00000003"
    verify(find(run))


def test_a_rollback_waits_for_the_checkpoint(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings["train"] |= {"steps": 26, "checkpoint_every": 24, "spike_batches": 1}
    run = tmp_path / "run"
    before_the_first_write(monkeypatch, lambda: time.sleep(1))
    with spikes(monkeypatch, Sampler, {24}):
        train_here(settings, tmp_path)
    assert [row["to_step"] for row in metrics(run) if "event" in row] == [24]
    assert len(losses(run)) == 26


def test_a_full_disk_of_another_rank(settings: dict[str, Any], tmp_path: Path) -> None:
    """All ranks stop after the same step, with one line."""
    settings["train"] |= {"steps": 100_000, "zero_stage": 1}
    full = (
        "import errno, os, time, climax_hpc.training.deepspeed_io as io\n"
        "def full(self, state, path):\n"
        "    time.sleep(0.5)\n"
        "    self.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\n"
        "if os.environ['RANK'] == '1':\n"
        "    io.HashingCheckpointEngine._write = full"
    )
    run = tmp_path / "run"
    with Ranks(settings, ranks=2, preamble=full) as ranks:
        statuses, _, errors = ranks.wait()
    assert statuses == [2, 2], errors
    assert errors.startswith("climax-hpc: error: cannot write checkpoint ")
    assert "step_00000003 (No space left on device): earlier checkpoints are intact" in errors
    assert len(errors.strip().splitlines()) == 1
    assert state(run)["state"] == "failed"
    assert not list((run / "checkpoints").iterdir())


@pytest.mark.faults
def test_a_write_that_hangs(settings: dict[str, Any], tmp_path: Path) -> None:
    stuck = (
        "import os, time, climax_hpc.training.deepspeed_io as io\n"
        "def hang(self):\n"
        "    time.sleep(1000)\n"
        "if os.environ['RANK'] == '1':\n"
        "    io.HashingCheckpointEngine.write_postponed = hang"
    )
    settings["train"]["checkpoint_every"] = 100
    with Ranks(endless(settings), ranks=2, preamble=f"{PATIENT_START}\n{stuck}") as ranks:
        statuses, _, errors = ranks.wait()
    assert statuses == [EXIT_RANK_LOST, EXIT_RANK_LOST], errors
    # A fast machine reaches the next checkpoint before the write is late, and waits for it there.
    assert any(f"{place} since " in errors for place in (", while step_00000100 is written", "checkpoint of step 200"))
    assert errors.startswith("climax-hpc: error: rank 1 is stuck in "), errors
    assert errors.count("climax-hpc: error: ") == 1
    assert " in hang" in (tmp_path / "run" / "stacks" / "rank_00001.txt").read_text()


def test_a_late_write_is_waited_for() -> None:
    process_group.connect()
    for patience, waits in ((0.0, False), (0.05, True), (60.0, False)):
        end = threading.Event()
        with CheckpointWriter(in_background=True, patience=patience) as writer:
            writer.start("step_00000001", lambda end=end: end.wait(0.5))  # type: ignore[misc]
            time.sleep(0.1)
            writer.wait_if_late()
            assert (writer.writing == "") == waits
            end.set()


def _start_and_fail(writer: CheckpointWriter, write: Callable[[], None]) -> None:
    with writer:
        writer.start("step_00000001", write)
        raise KeyError


def test_a_rank_that_fails_does_not_wait_for_one_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `hang_timeout: 0` no heartbeat ends the wait; its own part is written to the end."""
    monkeypatch.setattr(checkpoint_writer, "_SECONDS_AFTER_FAILURE", 0.5)
    process_group.connect()
    end, written = threading.Event(), threading.Event()

    def write() -> None:
        time.sleep(1.0)
        written.set()
        with writer.waiting_for_others():
            end.wait(30)

    writer, started = CheckpointWriter(in_background=True), time.monotonic()
    with pytest.raises(KeyError):
        _start_and_fail(writer, write)
    assert written.is_set()
    assert not end.is_set()
    assert time.monotonic() - started < 20
    end.set()


def test_an_error_is_raised_where_it_is_waited_for() -> None:
    process_group.connect()

    def fail() -> None:
        raise UserError("no space")

    with CheckpointWriter(in_background=True) as writer:
        writer.start("step_00000001", fail)
        while not writer.failed:
            time.sleep(0.001)
        with pytest.raises(UserError, match="no space"):
            writer.wait()
        writer.wait()


def test_what_is_copied() -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    state = {"a": [tensor.T, (tensor[1], "x")], "b": OrderedDict(size=torch.Size([2, 3])), "c": {"lr": [1.0]}}
    copied = host_copy(state)
    state["c"]["lr"][0] = 2.0  # type: ignore[index]
    tensor += 1
    assert torch.equal(copied["a"][0], torch.arange(6.0).reshape(2, 3).T)
    assert copied["a"][1][0].tolist() == [3, 4, 5]
    assert copied["a"][1][0].untyped_storage().nbytes() == 12  # not that of the whole tensor
    assert (type(copied["b"]), type(copied["b"]["size"])) == (OrderedDict, torch.Size)
    assert copied["c"] == {"lr": [1.0]}


def test_tensors_of_a_gpu_are_copied_to_pinned_memory_without_waiting() -> None:
    calls = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            calls.append((func, args, kwargs or {}))
            return func(*args, **(kwargs or {}))

    with FakeTensorMode(allow_non_fake_inputs=True):
        on_gpu = torch.empty(3, device="cuda")
        with Record():
            assert host_copy({"a": on_gpu})["a"].device.type == "cpu"
    assert any(kwargs.get("pin_memory") for _, _, kwargs in calls)
    assert [args[2] for func, args, _ in calls if func is torch.ops.aten.copy_.default] == [True]
