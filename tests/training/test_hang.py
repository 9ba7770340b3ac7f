"""Hung and lost ranks: detected in time, reported in one line that names the rank, the last checkpoint intact."""

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from climax_hpc.checkpoint.format import find, verify
from climax_hpc.distributed.signals import EXIT_RANK_LOST

from .processes import Ranks, logged_steps, state

pytestmark = pytest.mark.slow

TIMEOUT = 10.0  # a busy machine must not look hung
PATIENT_START = "import climax_hpc.distributed.hang_detection as h; h._START_FACTOR = 40"


def endless(settings: dict[str, Any], stage: int = 0) -> dict[str, Any]:
    settings["train"] |= {"steps": 100_000, "zero_stage": stage, "hang_timeout": TIMEOUT}
    return settings


@pytest.mark.parametrize(
    "stopped",
    [1, pytest.param(0, marks=pytest.mark.faults)],
)
def test_stopped_rank_is_named_and_all_end(settings: dict[str, Any], tmp_path: Path, stopped: int) -> None:
    run = tmp_path / "run"
    with Ranks(endless(settings, stage=1), ranks=2, preamble=PATIENT_START) as ranks:
        ranks.wait_until(lambda: logged_steps(run) >= 5 and (run / "checkpoints" / "latest").exists())
        ranks.processes[stopped].send_signal(signal.SIGSTOP)
        begin = time.monotonic()
        if stopped == 0:  # no rank can wake it: only rank 0 knows the processes
            ranks.processes[1].wait(timeout=60)
            took = time.monotonic() - begin
            ranks.processes[0].send_signal(signal.SIGCONT)
        statuses, _, errors = ranks.wait()
        took = took if stopped == 0 else time.monotonic() - begin
    assert statuses[1 - stopped] == EXIT_RANK_LOST, errors
    assert statuses[stopped] == EXIT_RANK_LOST, errors
    assert errors.count("climax-hpc: error: ") == 1 + (stopped == 0), errors
    assert f"climax-hpc: error: rank {stopped} gives no sign of life since " in errors
    assert "it was last in " in errors
    assert "Traceback" not in errors
    assert TIMEOUT - 1 < took < TIMEOUT + 45
    assert "train_from" in (run / "stacks" / f"rank_{1 - stopped:05d}.txt").read_text()
    if stopped == 1:
        assert (run / "stacks" / "rank_00001.txt").stat().st_size > 0
        assert state(run)["state"] == "failed"
        assert "rank 1 gives no sign of life" in state(run)["message"]
    verify(find(run))
    print(f"SIGSTOP of rank {stopped}: all ended after {took:.1f} s (timeout {TIMEOUT} s)")


@pytest.mark.faults
def test_rank_stuck_in_the_data_is_named(settings: dict[str, Any], tmp_path: Path) -> None:
    """The process lives but its main thread makes no progress: the others wait for it in a collective."""
    stuck = (
        "import os, time\n"
        "from climax_hpc.data.batch_builder import SourceBatchBuilder\n"
        "assemble, calls = SourceBatchBuilder.assemble, []\n"
        "def slow(self, *arguments):\n"
        "    calls.append(0)\n"
        "    if os.environ['RANK'] == '1' and len(calls) == 8:\n"
        "        time.sleep(1000)\n"
        "    return assemble(self, *arguments)\n"
        "SourceBatchBuilder.assemble = slow"
    )
    run = tmp_path / "run"
    with Ranks(endless(settings), ranks=2, preamble=f"{PATIENT_START}\n{stuck}") as ranks:
        statuses, _, errors = ranks.wait()
    assert statuses == [EXIT_RANK_LOST, EXIT_RANK_LOST], errors
    assert "climax-hpc: error: rank 1 is stuck in reading data after step 6 since " in errors
    assert errors.count("climax-hpc: error: ") == 1
    assert " in slow" in (run / "stacks" / "rank_00001.txt").read_text()


@pytest.mark.parametrize("lost", [1, pytest.param(0, marks=pytest.mark.faults)])
def test_killed_rank_ends_the_others_with_one_line(settings: dict[str, Any], tmp_path: Path, lost: int) -> None:
    run = tmp_path / "run"
    settings = endless(settings, stage=2)
    settings["train"]["hang_timeout"] = 600  # the broken connection must report it, not the time-out
    with Ranks(settings, ranks=2) as ranks:
        ranks.wait_until(lambda: logged_steps(run) >= 5 and (run / "checkpoints" / "latest").exists())
        ranks.processes[lost].kill()
        begin = time.monotonic()
        statuses, _, errors = ranks.wait()
        took = time.monotonic() - begin
    assert statuses[lost] == -signal.SIGKILL
    assert statuses[1 - lost] == EXIT_RANK_LOST, errors
    assert f"climax-hpc: error: rank {1 - lost} has lost contact with another rank" in errors
    assert "the last checkpoint is intact: start the same command again to resume from it" in errors
    assert errors.count("climax-hpc: error: ") == 1
    assert "Traceback" not in errors
    assert took < 60
    verify(find(run))
    if lost == 1:
        assert state(run)["state"] == "failed"


FAULTY = """
import ctypes, os, time, torch
from climax_hpc.distributed.heartbeat import Heartbeat
from climax_hpc.errors import UserError
passed, at = [], Heartbeat.at
def fail(self, place):
    passed.append(place)
    at(self, place)
    if len(passed) == 8:
        if os.environ["RANK"] != "{failing}":
            ctypes.CDLL(None).sleep(1000)  # as a main thread waits for a GPU: without Python's lock, and no peer to see
        raise {error}
Heartbeat.at = fail
torch.distributed.destroy_process_group = lambda: time.sleep(1000)  # as NCCL waits for collectives in its queue
"""
NO_MEMORY = (
    "torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB. GPU 3 has a total capacity of 79.10 GiB "
    "of which 1.25 GiB is free. Process 1 has 77.84 GiB memory in use.')"
)
NO_MEMORY_LINE = (
    "not enough memory on GPU 3 (2.00 GiB more were asked for, 1.25 GiB of 79.10 GiB are free): lower "
    "data.micro_batch_size (now 2; raise data.micro_batches_per_step as much for the same global batch), or set "
    "model.activation_checkpointing (now false); "
)


@pytest.mark.parametrize(
    ("ranks", "failing", "error", "status", "line"),
    [
        pytest.param(2, 1, NO_MEMORY, 1, f"climax-hpc: error: {NO_MEMORY_LINE}", id="no memory"),
        pytest.param(2, 0, "UserError('bad')", 2, "climax-hpc: error: bad\n", id="rank 0", marks=pytest.mark.faults),
        pytest.param(2, 1, "KeyError('bug')", 1, "KeyError: 'bug'\n", id="a bug", marks=pytest.mark.faults),
        pytest.param(3, 2, "UserError('bad')", 2, "error: bad\n", id="by rank 0", marks=pytest.mark.faults),
    ],
)
def test_a_rank_that_fails_ends_the_others_wherever_they_wait(
    settings: dict[str, Any], tmp_path: Path, ranks: int, failing: int, error: str, status: int, line: str
) -> None:
    settings = endless(settings)
    settings["data"]["micro_batches_per_step"] = ranks
    settings["train"]["hang_timeout"] = 600
    with Ranks(settings, ranks=ranks, preamble=FAULTY.format(failing=failing, error=error)) as started:
        statuses, _, errors = started.wait(timeout=120)
    assert statuses == [status] * ranks, errors
    assert errors.count(line) == 1, errors
    assert errors.count("climax-hpc: error: ") == (0 if "bug" in error else 1)
    message = state(tmp_path / "run")["message"]
    if failing:
        assert message == f"rank {failing} failed; its message is in the log"
    else:
        assert message == "bad"
