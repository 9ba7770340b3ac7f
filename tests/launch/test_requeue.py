"""The chain of attempts: which runs are requeued, which stop, and the record of both."""

import json
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from climax_hpc.distributed.signals import EXIT_RANK_LOST, EXIT_REQUEUE
from climax_hpc.errors import UserError
from climax_hpc.launch import requeue
from climax_hpc.utils.folder_lock import folder_lock


@pytest.fixture(autouse=True, scope="module")
def clock() -> Iterator[None]:
    """Attempts that last an hour."""
    with pytest.MonkeyPatch.context() as patch:
        hours = count(step=3600)
        patch.setattr("climax_hpc.launch.requeue.time.time", lambda: float(next(hours)))
        yield


def checkpoint(run: Path, step: int) -> None:
    """Make this step the newest checkpoint; nothing else of a run folder is used here."""
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    (run / "checkpoints" / "latest").write_text(f"step_{step:08d}\n")


def attempt(run: Path, step: int, status: int, job: str = "7") -> tuple[bool, str]:
    requeue.begin(run, job)
    if step:
        checkpoint(run, step)
    return requeue.end(run, job, status)


def test_a_run_with_progress_is_requeued_until_it_is_finished(tmp_path: Path) -> None:
    run = tmp_path / "a run"
    assert attempt(run, 10, EXIT_REQUEUE) == (
        True,
        f"{run} stopped with a checkpoint at 10 after one attempt; requeueing",
    )
    resumes, line = attempt(run, 20, 137)
    assert resumes
    assert "failed with status 137 at 20 after 2 attempts" in line
    assert attempt(run, 30, 0) == (False, f"{run} finished after 3 attempts")
    chain = requeue.read_chain(run)
    assert chain
    assert (chain.restarts, chain.stopped) == (2, "")
    assert not run.joinpath("attempts.json").exists()  # training refuses a folder with other files


def failed(run: Path, step: int, most: int = 10, status: int = 137, **slurm: str) -> str:
    """A failure at `step`; the line of a restart inside the job, empty if there is none."""
    if step:
        checkpoint(run, step)
    return requeue.restart(run, "7", status, most=most, slurm={"JobState": "RUNNING"} | slurm)


def test_ranks_start_again_in_their_job_while_there_is_progress(tmp_path: Path) -> None:
    run = tmp_path / "run"
    requeue.begin(run, "7")
    (run / "metrics.jsonl").parent.mkdir(parents=True, exist_ok=True)
    (run / "metrics.jsonl").touch()
    for number, step in enumerate((10, 20, 30), 1):
        assert f"its ranks start again in this job (restart {number} of at most 3)" in failed(run, step, most=3)
    assert not failed(run, 40, most=3)  # the fourth is requeued, and counts from 0 again
    assert requeue.end(run, "7", 137)[0]
    requeue.begin(run, "7")
    assert "restart 1 of at most 3" in failed(run, 50, most=3)
    chain = requeue.read_chain(run)
    assert chain
    assert [attempt.in_job for attempt in chain.attempts] == [False, True, True, True, False, True]
    assert [attempt.after for attempt in chain.attempts] == [10, 20, 30, 40, 50, None]
    assert all(attempt.ended and attempt.last_log for attempt in chain.attempts[:-1])
    assert not chain.is_queued


@pytest.mark.parametrize(
    ("step", "most", "status", "state"),
    [
        (0, 10, 137, "RUNNING"),  # no progress: the nodes may be at fault
        (10, 0, 137, "RUNNING"),  # not allowed, or warned of the time limit
        (10, 10, 0, "RUNNING"),
        (10, 10, 1, "RUNNING"),  # an error of the program
        (10, 10, 2, "RUNNING"),  # bad input
        (10, 10, EXIT_REQUEUE, "RUNNING"),
        (10, 10, 137, "CANCELLED"),
        (10, 10, 137, "COMPLETING"),
    ],
)
def test_no_restart_in_the_job(tmp_path: Path, step: int, most: int, status: int, state: str) -> None:
    run = tmp_path / "run"
    requeue.begin(run, "7")
    before = requeue.record_of(run).read_bytes()
    assert failed(run, step, most, status, JobState=state) == ""
    assert requeue.record_of(run).read_bytes() == before  # `end` records it


@pytest.mark.parametrize("status", [EXIT_RANK_LOST, 134, 137, 139])
def test_a_loss_of_ranks_at_the_same_place_is_requeued_once_and_then_stops(tmp_path: Path, status: int) -> None:
    run = tmp_path / "run"
    requeue.begin(run, "7")
    assert failed(run, 10, status=status)
    assert not failed(run, 10, status=status)
    assert requeue.end(run, "7", status)[0]
    requeue.begin(run, "7")
    assert not failed(run, 10, status=status)
    assert "no progress in 2 attempts in a row (still at 10)" in requeue.end(run, "7", status)[1]


def test_a_pack_with_a_killed_rank_is_requeued(tmp_path: Path) -> None:
    """Its units are progress, but its ranks did not lose each other: whatever killed them may do so again here."""
    run = tmp_path / "data"
    requeue.begin(run, "7")
    unit = run / ".first_pass" / "0.h5.json"
    unit.parent.mkdir(parents=True)
    unit.touch()
    assert requeue.progress(run) == 1
    assert not failed(run, 0)
    assert requeue.end(run, "7", 137)[0]


def test_restarts_count_as_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that is lost every minute ends the chain like a job that is requeued every minute."""
    seconds = count(step=28)
    monkeypatch.setattr("climax_hpc.launch.requeue.time.time", lambda: float(next(seconds)))
    run = tmp_path / "run"
    requeue.begin(run, "7")
    assert [bool(failed(run, step)) for step in range(1, 6)] == [True, True, True, True, False]
    assert "5 starts within 10 minutes" in requeue.end(run, "7", 137)[1]


def test_two_attempts_without_progress_stop_the_chain(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert attempt(run, 10, EXIT_REQUEUE)[0]
    assert attempt(run, 10, 1)[0]
    resumes, line = attempt(run, 10, EXIT_REQUEUE)
    assert not resumes
    assert "no progress in 2 attempts in a row (still at 10)" in line
    with pytest.raises(UserError, match="no progress in 2 attempts in a row"):
        requeue.begin(run, "7")
    requeue.begin(run, "8")  # a new submission by the user starts a new chain
    assert requeue.read_chain(run).stopped == ""  # type: ignore[union-attr]


def test_progress_resets_the_count(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for step in (0, 10, 10, 20, 20):
        assert attempt(run, step, EXIT_REQUEUE)[0]
    assert not attempt(run, 20, EXIT_REQUEUE)[0]


def test_attempts_that_were_lost_with_their_node_count_too(tmp_path: Path) -> None:
    run = tmp_path / "run"
    requeue.begin(run, "7")
    requeue.begin(run, "7")
    with pytest.raises(UserError, match="no progress in 2 attempts"):
        requeue.begin(run, "7")


def test_bad_input_is_not_tried_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    requeue.begin(run, "7")
    assert not requeue.end(run, "7", 2, "no such source")[0]
    assert requeue.read_chain(run).stopped == "no such source"  # type: ignore[union-attr]


def test_progress_of_a_data_set_counts_the_units_of_every_pass(tmp_path: Path) -> None:
    run, records = tmp_path / "data", tmp_path / "data" / ".first_pass" / "source"
    records.mkdir(parents=True)
    (run / "source").mkdir()
    assert requeue.progress(run) == requeue.progress(tmp_path / "absent") == 0
    for unit in range(60):
        (records / f"{unit}.h5.json").touch()
    (records / "60.h5.raw").touch()  # fields of a unit that is not finished
    assert requeue.progress(run) == 60
    (records / "0.h5.done.json").touch()
    (run / "source" / "0.h5").touch()
    (run / "source" / ".1.h5.77.tmp").touch()
    assert requeue.progress(run) == 62


def test_first_pass_of_a_pack_is_progress(tmp_path: Path) -> None:
    run = tmp_path / "data"
    for kept in (60, 160, 200):
        requeue.begin(run, "7")
        for unit in range(kept):
            path = run / ".first_pass" / f"{unit}.h5.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        assert requeue.end(run, "7", 138) == (
            True, f"{run} failed with status 138 at {kept} after "
            f"{'one attempt' if kept == 60 else f'{2 + (kept == 200)} attempts'}; requeueing",
        )  # fmt: skip


def test_quick_restarts_stop_the_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts of 28 s that make one step each."""
    seconds = count(step=28)
    monkeypatch.setattr("climax_hpc.launch.requeue.time.time", lambda: float(next(seconds)))
    run = tmp_path / "run"
    outcomes = [attempt(run, step, EXIT_REQUEUE) for step in range(1, 6)]
    assert [resumes for resumes, _ in outcomes] == [True, True, True, True, False]
    assert "5 starts within 10 minutes (now at 5)" in outcomes[-1][1]
    with pytest.raises(UserError, match="5 starts within 10 minutes"):
        requeue.begin(run, "7")


SHOW = {"JobState": "RUNNING", "TimeLimit": "00:04:00"}


@pytest.mark.parametrize(
    ("change", "left", "resumes"),
    [
        ({}, 235.0, False),  # --time=4, --signal=B:USR1@300
        ({"TimeLimit": "01:00:00"}, 235.0, True),
        ({"TimeLimit": "UNLIMITED"}, 235.0, True),
        ({}, 60.0, True),
        ({}, None, True),  # failed by itself
        ({"TimeLimit": "01:00:00"}, 3590.0, True),  # scancel --signal=USR1, by a user
        ({"PreemptTime": "2026-11-26T19:02:20"}, 235.0, True),
    ],
)
def test_a_warning_that_leaves_no_time_stops_the_chain(
    tmp_path: Path, change: dict[str, str], left: float | None, resumes: bool
) -> None:
    run = tmp_path / "run"
    requeue.begin(run, "7")
    checkpoint(run, 1)
    found, line = requeue.end(run, "7", EXIT_REQUEUE, slurm=SHOW | change, left=left)
    assert found == resumes
    if not resumes:
        assert "Slurm warns 235 s before the time limit of 240 s" in line
        assert "longer --time or a smaller --signal" in line


@pytest.mark.parametrize(("state", "stopped"), [("CANCELLED", "cancelled; submit it again to resume"), ("PENDING", "")])
def test_a_job_that_slurm_ended_is_not_requeued(tmp_path: Path, state: str, stopped: str) -> None:
    run = tmp_path / "run"
    requeue.begin(run, "7")
    resumes, line = requeue.end(run, "7", EXIT_REQUEUE, slurm={"JobState": state})
    assert (resumes, line.endswith(f"; Slurm lists the job as {state}: it is not requeued")) == (False, True)
    assert requeue.read_chain(run).stopped == stopped  # type: ignore[union-attr]


def test_a_run_folder_that_vanished_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert attempt(run, 500, EXIT_REQUEUE)[0]
    shutil.rmtree(run)
    with pytest.raises(UserError, match=r"run is gone, or its checkpoints: an earlier attempt reached 500; restore it"):
        requeue.begin(run, "7", restarted=True)
    assert "is gone" in requeue.read_chain(run).stopped  # type: ignore[union-attr]
    requeue.begin(run, "8")  # a new submission starts from the beginning


def test_a_restart_without_any_trace_of_the_first_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run is gone, and so is the record of earlier attempts \(.*attempts\.json\)"):
        requeue.begin(tmp_path / "run", "7", restarted=True)
    assert not any(tmp_path.iterdir())
    checkpoint(tmp_path / "run", 3)
    requeue.begin(tmp_path / "run", "7", restarted=True)


def test_a_restart_after_an_attempt_that_saved_nothing(tmp_path: Path) -> None:
    requeue.begin(tmp_path / "run", "7")
    requeue.begin(tmp_path / "run", "7", restarted=True)


@pytest.mark.parametrize("content", ["{", "[]", '{"job": "7", "stopped": "", "attempts": [{"x": 1}]}'])
def test_damaged_record_is_refused(tmp_path: Path, content: str) -> None:
    requeue.record_of(tmp_path / "run").write_text(content)
    with pytest.raises(UserError, match=r"run\.attempts\.json"):
        requeue.begin(tmp_path / "run", "7")


def test_a_second_job_does_not_end_the_chain_of_a_running_one(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    requeue.begin(run, "7")
    with folder_lock(run, "run_folder"), pytest.raises(UserError, match=r"run_folder: .* is in use by process"):
        requeue.begin(run, "8")
    checkpoint(run, 10)
    assert requeue.end(run, "7", EXIT_REQUEUE)[0]


def test_end_without_begin(tmp_path: Path) -> None:
    assert not requeue.end(tmp_path / "run", "7", EXIT_REQUEUE)[0]


@settings(deadline=None, max_examples=15)  # every attempt waits for fsync
@given(
    steps=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    statuses=st.lists(st.sampled_from([1, EXIT_REQUEUE, 137]), min_size=12),
)
def test_it_stops_exactly_when_two_in_a_row_saved_nothing(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], statuses: list[int]
) -> None:
    run = tmp_path_factory.mktemp("chain") / "run"
    saved, still = 0, 0
    for step, status in zip(steps, statuses, strict=False):
        saved, still = (saved + step, 0) if step else (saved, still + 1)
        assert attempt(run, saved, status)[0] == (still < 2)
        if still == 2:
            break
    record = json.loads(requeue.record_of(run).read_text())
    assert bool(record["stopped"]) == (still == 2)
