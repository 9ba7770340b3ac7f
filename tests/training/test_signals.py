"""A stop signal to any rank: all ranks stop after the same step with a checkpoint; resuming gives the same bits."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from climax_hpc.distributed.signals import EXIT_REQUEUE, Stopped
from climax_hpc.errors import UserError

from .conftest import losses, train_here
from .processes import Ranks, logged_steps, state

pytestmark = pytest.mark.slow


def test_signal_to_one_rank_stops_all_and_the_run_resumes(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["train"] |= {"steps": 30, "checkpoint_every": 100000, "zero_stage": 1}
    settings["model"]["dropout"] = 0.1
    run = tmp_path / "run"
    with Ranks(settings, ranks=2) as ranks:
        ranks.wait_until(lambda: logged_steps(run) >= 3)
        ranks.processes[1].send_signal(signal.SIGUSR1)
        statuses, output, errors = ranks.wait()
    assert statuses == [EXIT_REQUEUE, EXIT_REQUEUE], errors
    step = state(run)["step"]
    assert state(run)["state"] == "stopped"
    assert 3 <= step < 30
    assert (
        f"run: stopped by a stop signal to another rank after the checkpoint of step {step}; start the same" in output
    )
    assert "Traceback" not in errors
    assert [p.name for p in (run / "checkpoints").glob("step_*")] == [f"step_{step:08d}"]
    assert len(losses(run)) == step

    whole = settings | {"run_folder": str(tmp_path / "whole")}
    with Ranks(settings, whole, ranks=2) as ranks:
        statuses, output, errors = ranks.wait()
    assert statuses == [0, 0], errors
    assert losses(run) == losses(tmp_path / "whole")
    ended = state(run)
    assert ended["loss"] > 0
    assert ended["samples_per_s"] > 0
    assert {key: ended[key] for key in ("state", "step", "steps", "eta_s", "restarts", "message")} == {
        "state": "finished", "step": 30, "steps": 30, "eta_s": 0.0, "restarts": 1, "message": "",
    }  # fmt: skip


def test_sigterm_stops_one_process(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["train"] |= {"steps": 100_000, "checkpoint_every": 100_000}

    def send() -> None:
        while logged_steps(tmp_path / "run") < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(Stopped) as stopped:
        train_here(settings, tmp_path)
    sender.join()
    assert stopped.value.code == EXIT_REQUEUE
    assert signal.getsignal(signal.SIGTERM) is before
    assert state(tmp_path / "run")["message"].startswith("stopped by SIGTERM after the checkpoint of step ")


def test_a_run_that_was_started_again_says_so_before_its_first_step(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Building the engine may take minutes; if that fails, the run has failed."""
    train_here(settings, tmp_path)
    path = tmp_path / "run" / "state.json"
    path.write_text(json.dumps(state(tmp_path / "run") | {"state": "stopped", "message": "start it again"}))
    latest = tmp_path / "run" / "checkpoints" / "latest"
    latest.write_text("step_00000003\n")  # not finished
    seen = []

    def fail(*args: object, **more: object) -> None:
        seen.append(state(tmp_path / "run"))
        raise UserError("no engine")

    monkeypatch.setattr("climax_hpc.training.setup.build_engine", fail)
    with pytest.raises(UserError, match="no engine"):
        train_here(settings, tmp_path)
    assert [(s["state"], s["step"], s["message"], s["restarts"]) for s in seen] == [("starting", 3, "", 1)]
    assert (state(tmp_path / "run")["state"], state(tmp_path / "run")["message"]) == ("failed", "no engine")


def test_finished_run_says_so(settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_here(settings, tmp_path)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    capsys.readouterr()
    train_here(settings, tmp_path)
    assert capsys.readouterr().out == "run: already finished after step 6; nothing to do\n"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == files
