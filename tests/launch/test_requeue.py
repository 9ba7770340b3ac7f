"""The chain of attempts: which runs are requeued, which stop, and the record of both."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from climax_hpc.distributed.signals import EXIT_REQUEUE
from climax_hpc.errors import UserError
from climax_hpc.launch import requeue


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


def test_progress_of_a_data_set_is_its_shards(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.h5").touch()
    assert requeue.progress(tmp_path) == 1
    assert requeue.progress(tmp_path / "absent") == 0


@pytest.mark.parametrize("content", ["{", "[]", '{"job": "7", "stopped": "", "attempts": [{"x": 1}]}'])
def test_damaged_record_is_refused(tmp_path: Path, content: str) -> None:
    requeue.record_of(tmp_path / "run").write_text(content)
    with pytest.raises(UserError, match=r"run\.attempts\.json"):
        requeue.begin(tmp_path / "run", "7")


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
