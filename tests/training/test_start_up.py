"""The record of how long a start took, and what a start does not wait for."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from climax_hpc.training import start_up
from climax_hpc.training.start_up import StartUp


def test_parts_follow_each_other_without_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((110.0, 112.5, 113.0, 113.25))
    monkeypatch.setattr(start_up.time, "time", lambda: next(times))
    monkeypatch.setattr(start_up, "process_age", lambda: 10.0)
    start = StartUp()
    for part in ("imports", "ranks", "data"):
        start.passed(part)
    start.write(tmp_path, 4)
    assert json.loads((tmp_path / "starts.jsonl").read_text()) == {
        "began": 100.0,
        "step": 4,
        "parts": {"imports": 12.5, "ranks": 0.5, "data": 0.25},
    }


def test_each_start_adds_a_line(tmp_path: Path) -> None:
    before = time.time()
    for step in (0, 7):
        StartUp().write(tmp_path, step)
    lines = [json.loads(line) for line in (tmp_path / "starts.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 7]
    assert all(0 < before - line["began"] < 86_400 for line in lines)  # this process was started before the test


def test_a_record_that_cannot_be_written_stops_no_run(tmp_path: Path) -> None:
    StartUp().write(tmp_path / "absent", 0)
    assert not (tmp_path / "absent").exists()


def test_deepspeeds_muon_does_not_import_the_compiler() -> None:
    """Its ZeRO optimisers import it, and compile its functions, which no run here calls."""
    code = """
import sys
from climax_hpc.training.deepspeed_engine import import_deepspeed
import_deepspeed()
from deepspeed.runtime import compiler
from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam
print("torch._inductor.compile_fx" in sys.modules, compiler.compile.__module__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "deepspeed.runtime.compiler"]


def test_no_rank_looks_for_plugins_of_pydantic() -> None:
    """They would be looked for in every installed package, a few files each."""
    code = """
import importlib.metadata
import sys
def watched(function):
    def call(*args, **kwargs):
        if sys._getframe(1).f_globals["__name__"].startswith("pydantic.plugin"):
            raise AssertionError("looked for plugins")
        return function(*args, **kwargs)
    return call
for name in ("entry_points", "distributions"):
    setattr(importlib.metadata, name, watched(getattr(importlib.metadata, name)))
from climax_hpc.training.deepspeed_engine import import_deepspeed
import_deepspeed()
import pydantic
class Settings(pydantic.BaseModel):
    rank: int
print(Settings(rank=3).rank)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3"]
