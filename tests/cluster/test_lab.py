"""The lab leaves no process behind, however its owner ends, and reports why it cannot start."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from . import lab as module
from .conftest import wait_for
from .lab import unavailable

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
LAB = Path(module.__file__)


def processes_with(text: str) -> list[str]:
    """Processes whose command line or environment contains a text."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            command, environment = (Path(f"/proc/{entry}/{name}").read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            continue
        if text.encode() in command + environment:
            found.append(f"{entry}: {command.decode(errors='replace')}")
    return found


@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
def test_nothing_is_left_after_kill_9(tmp_path: Path) -> None:
    job = "sbatch --output=/dev/null --wrap 'sleep 600' && sleep 2 && squeue -h -o %T && echo $SLURM_CONF && sleep 600"
    owner = subprocess.Popen(
        [sys.executable, str(LAB), "sh", "-c", job], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout
    assert owner.stdout.readline().startswith("Submitted")
    assert owner.stdout.readline() == "RUNNING\n"
    folder = str(Path(owner.stdout.readline().strip()).parent)
    assert any("slurmctld" in line for line in processes_with(folder))
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    # The command (sh, sleep) is a child of the owner and may outlive it; the cluster must not.
    wait_for(lambda: all(": sh" in line or ": sleep" in line for line in processes_with(folder)), "the lab's end", 30)
    wait_for(lambda: not Path(folder).exists(), "its folder to be removed", 30)
    for line in processes_with(folder):
        os.kill(int(line.split(":")[0]), signal.SIGKILL)
    time.sleep(0.1)
    assert not processes_with(folder)


def test_no_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_SEARCH", str(tmp_path))
    reason = unavailable()
    assert reason is not None
    assert "apt-get install munge" in reason or "needs root" in reason
    done = subprocess.run([sys.executable, str(LAB)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage" in done.stderr
