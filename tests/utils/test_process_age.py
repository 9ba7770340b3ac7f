"""The age of a process, from the system and without it."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from climax_hpc.utils import process_age as module


def test_age_of_a_process_counts_from_its_start() -> None:
    code = "import time; time.sleep(0.3); from climax_hpc.utils.process_age import process_age; print(process_age())"
    before = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    age, longest = float(done.stdout), time.monotonic() - before
    assert age <= longest + 0.05  # ticks of 0.01 s
    if sys.platform == "linux":
        assert age >= 0.29


def test_without_proc_it_counts_from_the_import(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "Path", lambda name: tmp_path / "absent")
    monkeypatch.setattr(module, "_IMPORTED", time.monotonic() - 5.0)
    assert module.process_age() == pytest.approx(5.0, abs=1.0)
