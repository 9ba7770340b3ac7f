"""The runner of `make study`: skips finished steps, redoes changed and interrupted ones, runs nothing twice."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from climax_hpc.errors import UserError
from climax_hpc.experiments.study.__main__ import run
from climax_hpc.experiments.study.runner import Step, StepRecords, run_steps, with_needs

# Appends a line to OUTPUT at every start, waits, and fails if requested; on success it appends "end".
WORK = """
import sys, time, pathlib
output, seconds, word = pathlib.Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
with (output.parent / "order").open("a") as order: order.write(output.name + "\\n")
with output.open("a") as file: file.write(word + "\\n"); file.flush()
time.sleep(seconds)
if word == "fail": sys.exit("the disk is made of cheese")
with output.open("a") as file: file.write("end\\n")
"""
MakeStep = Callable[..., Step]


@pytest.fixture
def make_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeStep:
    (tmp_path / "study_test_work.py").write_text(WORK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(name: str, *needs: Step, word: str = "start", seconds: float = 0.0, resumable: bool = False) -> Step:
        words = ("study_test_work", str(tmp_path / name), str(seconds), word)
        return Step(name=name, words=words, output=tmp_path / name, needs=needs, resumable=resumable)

    return make


def order(folder: Path) -> list[str]:
    path = folder / "order"
    return path.read_text().split() if path.exists() else []


def test_needs_run_first_each_once_and_a_second_call_runs_nothing(make_step: MakeStep, tmp_path: Path) -> None:
    a = make_step("a")
    b, c = make_step("b", a), make_step("c", a)
    d = make_step("d", b, c)
    assert [step.name for step in with_needs([d, a])] == ["a", "b", "c", "d"]
    run_steps([d], tmp_path / "study", jobs=2)
    first = order(tmp_path)
    assert (first[0], sorted(first[1:3]), first[3:]) == ("a", ["b", "c"], ["d"])
    run_steps([d, c], tmp_path / "study", jobs=2)
    assert order(tmp_path) == first
    assert StepRecords(tmp_path / "study").seconds(d) > 0


def test_changed_settings_redo_the_step_and_all_that_follows(make_step: MakeStep, tmp_path: Path) -> None:
    a, other = make_step("a"), make_step("other")
    run_steps([make_step("b", a), other], tmp_path / "study", jobs=1)
    run_steps([make_step("b", make_step("a", word="changed")), other], tmp_path / "study", jobs=1)
    assert order(tmp_path) == ["a", "b", "other", "a", "b"]
    assert (tmp_path / "a").read_text().split() == ["changed", "end"]  # the old output was removed first


def test_a_lost_output_is_made_again(make_step: MakeStep, tmp_path: Path) -> None:
    run_steps([make_step("a")], tmp_path / "study", jobs=1)
    (tmp_path / "a").unlink()
    run_steps([make_step("a")], tmp_path / "study", jobs=1)
    assert order(tmp_path) == ["a", "a"]


def test_a_failing_step_is_named_with_its_log_and_finished_ones_are_kept(make_step: MakeStep, tmp_path: Path) -> None:
    a = make_step("a")
    with pytest.raises(UserError, match=r"step b failed \(exit status 1\): the disk is made of cheese; see .*b\.log"):
        run_steps([make_step("b", a, word="fail"), make_step("c", a)], tmp_path / "study", jobs=1)
    run_steps([make_step("b", a), make_step("c", a)], tmp_path / "study", jobs=1)
    assert order(tmp_path) == ["a", "b", "b", "c"]


def test_steps_run_at_the_same_time(make_step: MakeStep, tmp_path: Path) -> None:
    steps = [make_step(name, seconds=2.0) for name in ("a", "b")]
    began = time.monotonic()
    run_steps(steps, tmp_path / "study", jobs=2)
    spent = sum(StepRecords(tmp_path / "study").seconds(step) for step in steps)
    assert time.monotonic() - began < spent


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_study_resumes(make_step: MakeStep, tmp_path: Path, how: signal.Signals) -> None:
    a = make_step("a")
    fresh, resuming = make_step("fresh", a, seconds=2.5), make_step("resuming", a, seconds=2.5, resumable=True)
    child = _start_study(tmp_path)
    _wait_until(lambda: {"fresh", "resuming"} <= set(order(tmp_path)))
    child.send_signal(how)
    child.wait(20)
    if how is signal.SIGKILL:  # its steps still run, and a second study must not touch their output
        with pytest.raises(UserError, match=r"still running in .*study"):
            run_steps([fresh, resuming], tmp_path / "study", jobs=2)
        _wait_until(lambda: all("end" in (tmp_path / name).read_text() for name in ("fresh", "resuming")))
        _wait_until(lambda: _is_free(tmp_path / "study"))
    run_steps([fresh, resuming], tmp_path / "study", jobs=2)
    assert order(tmp_path).count("a") == 1
    assert (tmp_path / "fresh").read_text().split() == ["start", "end"]
    # A resumable step finds its own earlier output.
    ended = ["end"] if how is signal.SIGKILL else []
    assert (tmp_path / "resuming").read_text().split() == ["start", *ended, "start", "end"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--folder", "file"), "--folder: .*file is a file; choose another --folder"),
        (("--folder", "busy"), r"--folder: cannot write .*lock \(Is a directory\); choose a writable folder"),
        (("--folder", "f", "--results", "file/page.md"), "--results: .*file is a file.*; choose another --results"),
        (("--folder", "f", "--results", "busy"), "--results: .*busy is a folder; give a file"),
        (("--jobs", "0"), "--jobs: 0 must be at least 1"),
    ],
)
def test_bad_arguments_are_one_line_and_run_nothing(tmp_path: Path, given: tuple[str, ...], message: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "busy" / "lock").mkdir(parents=True)
    words = [word if word.startswith("--") or word == "0" else str(tmp_path / word) for word in given]
    with pytest.raises(UserError, match=message) as found:
        run(["--quick", *words])
    assert "\n" not in str(found.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["busy", "file", "lock"]


def _start_study(folder: Path) -> "subprocess.Popen[bytes]":
    code = f"""
import signal
from pathlib import Path
from climax_hpc.experiments.study.runner import Step, run_steps
def make(name, *needs, seconds=0.0, resumable=False):
    words = ("study_test_work", {str(folder)!r} + "/" + name, str(seconds), "start")
    return Step(name=name, words=words, output=Path({str(folder)!r}) / name, needs=needs, resumable=resumable)
a = make("a")
signal.signal(signal.SIGINT, signal.default_int_handler)
run_steps([make("fresh", a, seconds=2.5), make("resuming", a, seconds=2.5, resumable=True)],
          Path({str(folder)!r}) / "study", jobs=2)
"""
    return subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(folder)})


def _wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def _is_free(folder: Path) -> bool:
    try:
        run_steps([], folder, jobs=1)
    except UserError:
        return False
    return True
