"""`climax-hpc status`: its table, and refused folders."""

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from climax_hpc.cli import run
from climax_hpc.distributed.signals import EXIT_REQUEUE
from climax_hpc.errors import UserError
from climax_hpc.launch import requeue
from climax_hpc.launch.members import make_table, write_table
from climax_hpc.launch.status import duration, read_status


def state(folder: Path, *, ago: float = 5.0, **change: Any) -> Path:
    """A run folder as training writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "state": "running", "step": 1200, "steps": 200_000, "loss": 0.1234, "samples_per_s": 523.4, "eta_s": 12_000.0,
        "updated": (datetime.now(UTC) - timedelta(seconds=ago)).isoformat(timespec="seconds"), "restarts": 2,
        "host": "nid001", "job_id": "77", "message": "",
    }  # fmt: skip
    (folder / "state.json").write_text(json.dumps(content | change))
    return folder


def test_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["status", str(state(tmp_path / "a run"))])
    shown = capsys.readouterr().out
    for word in ("running", "1200/200000", "0.1234", "523", "3 h 20 min", "77", "nid001"):
        assert word in shown


def test_a_folder_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state(tmp_path / "done", state="finished", loss=None, samples_per_s=None, eta_s=0.0)
    state(tmp_path / "dead", ago=3600.0)
    state(tmp_path / "hurt", state="failed", message="the loss is nan")
    requeue.begin(tmp_path / "soon", "5")
    requeue.begin(tmp_path / "bad", "6")
    requeue.end(tmp_path / "bad", "6", 2, "no such source")
    run(["status", str(tmp_path)])
    lines = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "finished" in lines["done"]
    assert "silent" in lines["dead"]
    assert "1 h" in lines["dead"]
    assert "waiting" in lines["soon"]
    assert "failed" in lines["bad"]
    assert "hurt: the loss is nan" in lines
    assert "bad: no such source" in lines


def test_members_of_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(make_table(tmp_path, seeds=[1, 2]), tmp_path / "members.tsv")
    state(tmp_path / "000_forecast_seed1")
    run(["status", str(tmp_path)])
    shown = capsys.readouterr().out.splitlines()
    assert "running" in shown[1]
    assert "waiting" in shown[2]


def test_a_stopped_chain_is_a_failure_until_it_is_submitted_again(tmp_path: Path) -> None:
    folder = state(tmp_path / "run", state="stopped")
    for _ in range(2):
        requeue.begin(folder, "5")
        requeue.end(folder, "5", EXIT_REQUEUE)
    status = read_status(folder)
    assert (status.state, status.restarts) == ("failed", 2)
    assert "no progress" in status.message
    requeue.begin(folder, "6")
    status = read_status(folder)
    assert (status.state, status.message) == ("starting", "")


def test_a_requeued_run_is_not_stopped(tmp_path: Path) -> None:
    """Training wrote `start the same command again`; the job does that by itself."""
    folder = state(tmp_path / "run", state="stopped", message="start the same command again to resume")
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir()
    requeue.begin(folder, "5")
    (checkpoints / "latest").write_text("step_00000010")
    assert requeue.end(folder, "5", EXIT_REQUEUE)[0]
    assert (read_status(folder).state, read_status(folder).message) == ("waiting", "")
    requeue.begin(folder, "5")
    assert (read_status(folder).state, read_status(folder).message) == ("starting", "")
    state(folder, ago=-2)  # its first output
    assert read_status(folder).state == "running"
    state(folder, ago=-2, state="finished")
    assert requeue.end(folder, "5", 0) == (False, f"{folder} finished after 2 attempts")
    assert read_status(folder).state == "finished"


def test_a_cancelled_run_is_not_waiting(tmp_path: Path) -> None:
    folder = state(tmp_path / "run", state="stopped", message="start the same command again to resume")
    requeue.begin(folder, "5")
    requeue.end(folder, "5", EXIT_REQUEUE, slurm={"JobState": "CANCELLED"})
    assert read_status(folder).message == "cancelled; submit it again to resume"


def test_a_run_that_does_not_come_to_its_first_step_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = state(tmp_path / "run", ago=9000, state="stopped")
    requeue.begin(folder, "5")
    assert read_status(folder).state == "starting"
    later = time.time() + 700
    monkeypatch.setattr("climax_hpc.launch.status.time.time", lambda: later)
    assert read_status(folder).state == "silent"


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"updated": "yesterday"}'])
def test_damaged_state(tmp_path: Path, content: str) -> None:
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(UserError, match=r"state\.json"):
        read_status(tmp_path)


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        run(["status", str(tmp_path)])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3600, "1 h"), (180_061, "2 d 2 h"), (-3, "0 s")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
