"""One process per output folder: the second is told who holds it, a killed one leaves nothing that blocks the next."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from climax_hpc.errors import UserError
from climax_hpc.utils import folder_lock as module
from climax_hpc.utils.folder_lock import LOCK, folder_lock

HOLD = """
import sys, time
from pathlib import Path
from climax_hpc.utils.folder_lock import folder_lock
with folder_lock(Path(sys.argv[1]), "output", wait=len(sys.argv) > 2):
    print("held", flush=True)
    sys.stdin.read()
"""
Hold = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Hold]:
    """Starts a process that holds the lock of tmp_path until its standard input ends."""
    started = []

    def start(*words: str, **environment: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path), *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | environment,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def held(process: "subprocess.Popen[str]") -> "subprocess.Popen[str]":
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_process_is_told_who_the_first_is(hold: Hold, tmp_path: Path) -> None:
    first = held(hold(SLURM_JOB_ID="7"))
    message = rf"output: {tmp_path} is in use by process {first.pid} on {socket.gethostname()} in Slurm job 7 \(.*since"
    with pytest.raises(UserError, match=message), folder_lock(tmp_path, "output"):
        pass
    first.communicate("")
    with folder_lock(tmp_path, "output"):
        pass
    assert not list(tmp_path.iterdir())


def test_the_lock_holds_no_values_of_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["climax-hpc", "pack", "--input=https://user:hidden@example.org/x.zarr"])
    with folder_lock(tmp_path, "output"):
        assert json.loads((tmp_path / LOCK).read_text())["command"] == "pack --input"


def test_a_killed_process_leaves_no_lock(hold: Hold, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held(hold()).send_signal(signal.SIGKILL)
    time.sleep(0.3)
    assert (tmp_path / LOCK).is_file()
    with folder_lock(tmp_path, "output"):
        pass
    assert capsys.readouterr().out == ""
    (tmp_path / LOCK).write_text(json.dumps(module._this_process() | {"host": "node7\x1b", "pid": 12}))
    with folder_lock(tmp_path, "output"):
        pass
    assert "taken over from process 12 on node7? (" in capsys.readouterr().out


def test_one_process_cannot_lock_twice_by_two_names(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for _ in range(2):
        with folder_lock(tmp_path / "real", "output"):
            for again in ("real", "link"):
                with (
                    pytest.raises(UserError, match=f"process {os.getpid()} on"),
                    folder_lock(tmp_path / again, "output"),
                ):
                    pass


def test_waiting_processes_hold_the_lock_one_after_the_other(hold: Hold) -> None:
    waiting = [hold("wait") for _ in range(3)]
    while waiting:
        holding = [process for process in waiting if select.select([process.stdout], [], [], 0.3)[0]]
        assert len(holding) <= 1
        for process in holding:
            held(process).communicate("")
            waiting.remove(process)


def test_a_requeued_job_waits_for_the_lock_of_its_last_attempt(
    hold: Hold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = held(hold(SLURM_JOB_ID="7", SLURM_RESTART_COUNT="0"))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_TRIES", 0.05)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: first.kill())
    with folder_lock(tmp_path, "output"):
        pass
    assert "waiting for the lock of this job's last attempt" in capsys.readouterr().out


def test_links_are_not_followed_and_unsupported_locks_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / LOCK).symlink_to("precious")
    with pytest.raises(OSError, match="Too many levels"), folder_lock(tmp_path, "output"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"
    (tmp_path / LOCK).unlink()

    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(module.fcntl, "lockf", no_locks)
    with folder_lock(tmp_path, "output"):
        pass
    assert "this file system has no locks (No locks available)" in capsys.readouterr().err
