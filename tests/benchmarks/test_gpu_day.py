"""`benchmarks/gpu_day`: a stage that fails, hangs or finds a wrong result stops no other, and all of it is recorded."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
# In place of the interpreter: -m benchmarks.gpu_day.stage NAME FOLDER. One stage each way to end.
STAGES = r"""#!/bin/bash
name=$3 folder=$4
rows() { echo "{\"header\": {}, \"rows\": [$1]}" >"$folder/$name.json"; }
row() { echo "{\"name\": \"$1\", \"value\": $2, \"unit\": \"$3\", \"stage\": \"$name\"${4:+, \"of\": [\"$4\"]}}"; }
case $name in
tests) echo "cannot | work"; exit 3 ;;
planted_crash) exit 139 ;;
loss | planted_hang) trap '' TERM; echo $$ >"$folder/../pid_$name"; sleep 60; exit ;;
environment) echo '{"header": {"device": "fake", "date": "2026-01-01", "versions": {"torch": "1"}}, "rows": []}' \
  >"$folder/$name.json" ;;
correct_sums) rows "$(row correct/sums 1.0 1 verification_sums), $(row error/sums null 1 verification_sums)" ;;
correct_loss) rows "$(row correct/loss 1.0 1 lat_weighted_loss)"; exit 1 ;;
evaluation) rows "$(row correct/evaluation 0.0 1 verification_sums), $(row evaluation/ours 1e-3 s verification_sums)" ;;
model_eager) rows "$(row model/ours 1e-3 s lat_weighted_loss), $(row model/textbook 1e-3 s)" ;;
planted_wrong) rows "$(row correct/planted_wrong 0.0 1 planted_wrong), $(row planted_wrong/ours 1 s planted_wrong)" ;;
profile) head -c 3000000 /dev/zero | tr '\0' x; echo; echo the end >&2; exit 1 ;;
*) echo '{"header": {}, "rows": [{"name": "a/b", "value": 2e-6, "unit": "s", "limit": 1e-6}, '\
'{"name": "a/zero", "value": 0.0, "unit": "s", "limit": 1e-6}]}' >"$folder/$name.json" ;;
esac
"""


@pytest.fixture
def gpu_day(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The driver; the folder `benchmarks` is no part of the package and is importable from the checkout only."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.gpu_day import __main__, process, schedule

    script = tmp_path / "python"
    script.write_text(STAGES)
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(process.sys, "executable", str(script))
    monkeypatch.setitem(schedule.STAGES, "loss", schedule.Slot(1))
    monkeypatch.setitem(schedule.PLANTED, "planted_hang", schedule.Slot(1, ("hanging",)))
    monkeypatch.setattr(__main__.signal, "signal", lambda *_: None)
    return __main__


def run(gpu_day: ModuleType, tmp_path: Path, *stages: str, seconds: str = "100") -> tuple[int, dict, str]:
    out = tmp_path / "out"
    status = gpu_day.main([str(out), seconds, *(("--stages", *stages) if "--rehearsal" not in stages else stages)])
    return status, json.loads((out / "gpu_day.json").read_text()), (out / "gpu_day.md").read_text()


def test_no_stage_stops_another(gpu_day, tmp_path):
    status, result, table = run(gpu_day, tmp_path, "environment", "tests", "loss", "pretrain")
    assert status == 1
    outcomes = {stage["stage"]: stage["outcome"] for stage in result["stages"]}
    assert outcomes == {"environment": "ok", "tests": "failed", "loss": "timed out", "pretrain": "ok"}
    assert result["device"] == "fake"
    assert [row["name"] for row in result["rows"]] == ["a/b", "a/zero"]
    assert "| loss | timed out |" in table
    assert "| cannot ¦ work |" in table
    assert "| a/b |  | 2.0 µs | 1.0 µs | 0.50 |" in table


@pytest.mark.parametrize(
    ("stages", "withheld", "shown"),
    [
        (("correct_sums", "evaluation"), {"verification_sums": ["evaluation/ours"]}, []),  # one check of two failed
        (("correct_loss", "model_eager"), {"lat_weighted_loss": ["model/ours"]}, ["model/textbook"]),  # it crashed
        (("model_eager",), {"lat_weighted_loss": ["model/ours"]}, ["model/textbook"]),  # nobody checked
    ],
    ids=["wrong", "crashed", "unchecked"],
)
def test_what_is_not_shown_to_be_right_has_no_speed(gpu_day, tmp_path, stages, withheld, shown):
    _, result, table = run(gpu_day, tmp_path, *stages)
    assert result["withheld"] == withheld
    assert [row["name"] for row in result["rows"] if row["unit"] == "s"] == shown
    for kernel, names in withheld.items():
        assert f"| {kernel} | 1 | {names[0]} |" in table
        assert f"| {names[0]} |  | 1" not in table


def test_a_wrong_result_is_a_failure(gpu_day, tmp_path):
    status, result, table = run(gpu_day, tmp_path, "environment", "evaluation")
    assert status == 1
    assert {stage["outcome"] for stage in result["stages"]} == {"ok"}
    assert "| correct/evaluation | 0 |" in table


def test_all_is_well(gpu_day, tmp_path):
    status, result, _ = run(gpu_day, tmp_path, "environment", "correct_sums")
    assert status == 0
    assert result["withheld"] == {}


def test_time_is_shared_until_it_is_used_up(gpu_day, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_day, "LEAST", 0.5)
    monkeypatch.setattr(gpu_day, "RESERVE", 0.1)
    start = time.monotonic()
    _, result, _ = run(gpu_day, tmp_path, "environment", "loss", "ceilings", "pretrain", seconds="1")
    assert time.monotonic() - start < 3
    assert [s["outcome"] for s in result["stages"]] == ["ok", "timed out", "left out", "left out"]


@pytest.mark.parametrize(
    ("name", "running", "room"),
    [
        ("loss", [], True), ("loss", ["correct_loss"], False), ("correct_sums", ["loss"], False),
        ("correct_sums", ["correct_loss", "tests"], True), ("tests", ["correct_sums"] * 11, False),
    ],
)  # fmt: skip
def test_what_measures_times_runs_alone(gpu_day, name, running, room):
    day = gpu_day.Day.__new__(gpu_day.Day)
    day.rehearsal = False
    assert day.has_room(name, [SimpleNamespace(name=other) for other in running]) == room


def test_no_log_fills_the_disk(gpu_day, tmp_path):
    _, result, _ = run(gpu_day, tmp_path, "profile")
    assert result["stages"][0]["last_line"] == "the end"
    log = (tmp_path / "out" / "gpu_day.log").read_bytes()
    assert b"the end" in log
    assert len(log) < 1 << 20


def test_a_rehearsal_is_right_only_with_what_was_planted(gpu_day, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_day, "STAGES", {name: gpu_day.STAGES[name] for name in ("environment", "ceilings")})
    status, result, _ = run(gpu_day, tmp_path, "--rehearsal")
    assert (status, capsys.readouterr().err) == (0, "rehearsal: as it should be\n")
    assert len(result["stages"]) == 5

    from benchmarks.gpu_day.rehearsal import problems

    out = tmp_path / "out"
    names = [stage["stage"] for stage in result["stages"]]
    assert problems(out, names) == []
    assert problems(out, [*names, "profile"]) == [
        "stage profile: not recorded, expected ok",
        "stage profile is not in the table",
    ]
    good = (out / "gpu_day.json").read_text()
    speed = {"name": "planted_wrong/ours", "value": 1.0, "unit": "s"}
    for change, problem in (
        ({"rows": [*result["rows"], speed]}, "planted_wrong/ours: the planted wrong result has a speed"),
        ({"rows": []}, "the planted wrong result was taken for right"),
        ({"rows": [*result["rows"], speed | {"name": "correct/x", "value": 0.0}]}, "correct/x is 0"),
        ({"withheld": {}}, "no speed of the planted wrong result was withheld"),
        ({"withheld": result["withheld"] | {"k": ["x"]}}, "figures of k were withheld"),
        ({"stages": [s | {"outcome": "ok"} for s in result["stages"]]}, "stage planted_crash: ok, expected failed"),
    ):
        (out / "gpu_day.json").write_text(json.dumps(result | change))
        assert problem in problems(out, names)
    (out / "gpu_day.json").write_text(good[:-9])
    assert problems(out, names)[0].startswith("no table or no JSON: ")
    (out / "gpu_day.json").write_text(good)
    for i in range(8):
        (out / str(i)).write_bytes(b"")
    assert "11 files, more than 8" in problems(out, names)


def test_a_stopped_day_leaves_no_process_and_says_what_it_has(gpu_day, tmp_path):
    out = tmp_path / "out"
    command = [sys._base_executable, "-c", "import sys; sys.executable = sys.argv.pop(1); "
               "import runpy; runpy.run_module('benchmarks.gpu_day', run_name='__main__')",
               str(tmp_path / "python"), str(out), "60", "--stages", "environment", "loss"]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    day = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL)
    while not (pids := list(tmp_path.glob("pid_loss"))) or not pids[0].read_text():
        time.sleep(0.05)
    day.send_signal(signal.SIGTERM)
    assert day.wait(60) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int(pids[0].read_text()), 0)
    outcomes = [stage["outcome"] for stage in json.loads((out / "gpu_day.json").read_text())["stages"]]
    assert outcomes == ["ok", "interrupted"]


def test_without_a_gpu_only_a_rehearsal_runs(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.gpu_day import stage

    monkeypatch.setattr(stage.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["stage", "ceilings", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"^no GPU is visible to PyTorch"):
        stage.main()


def test_committed_results_have_one_row_a_name(gpu_day):
    for path in (ROOT / "benchmarks").glob("h100-*.json"):
        result = json.loads(path.read_text())
        names = [row["name"] for row in result["rows"]]
        assert len(names) == len(set(names)), path
        assert {"device", "date", "commit", "versions"} <= result.keys()
        assert gpu_day.markdown(result, json.loads(gpu_day.PREDICTIONS.read_text()))


def test_predictions_have_reasons(gpu_day):
    rows = json.loads(gpu_day.PREDICTIONS.read_text())["rows"]
    assert len({row["name"] for row in rows}) == len(rows)
    assert all(row["value"] > 0 and row["reason"] for row in rows)
