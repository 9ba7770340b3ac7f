"""`benchmarks/gpu_day`: a stage that fails, hangs or finds a wrong result stops no other, and all of it is recorded."""

import json
import stat
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
# In place of the interpreter: -m benchmarks.gpu_day.stage NAME FOLDER. One stage each way to end.
STAGES = r"""#!/bin/bash
name=$3 folder=$4
[ $name != tests ] || exit 3
[ $name != loss ] || exec sleep 60
case $name in
environment) echo '{"header": {"device": "fake", "date": "2026-01-01", "versions": {"torch": "1"}}, "rows": []}' ;;
evaluation) echo '{"header": {}, "rows": [{"name": "correct/evaluation", "value": 0.0, "unit": "1"}]}' ;;
*) echo '{"header": {}, "rows": [{"name": "a/b", "value": 2e-6, "unit": "s", "limit": 1e-6}]}' ;;
esac >"$folder/$name.json"
"""


@pytest.fixture
def gpu_day(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The driver; the folder `benchmarks` is no part of the package and is importable from the checkout only."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.gpu_day import __main__

    return __main__


def run(gpu_day: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *stages: str) -> tuple[int, dict]:
    script = tmp_path / "python"
    script.write_text(STAGES)
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(gpu_day.sys, "executable", str(script))
    monkeypatch.setitem(gpu_day.DEADLINES, "loss", 1)
    status = gpu_day.main([str(tmp_path / "out"), "100", "--stages", *stages])
    return status, json.loads((tmp_path / "out" / "gpu_day.json").read_text())


def test_no_stage_stops_another(gpu_day, tmp_path, monkeypatch):
    status, result = run(gpu_day, tmp_path, monkeypatch, "environment", "tests", "loss", "model_eager")
    assert status == 1
    outcomes = {stage["stage"]: stage["outcome"] for stage in result["stages"]}
    assert outcomes == {"environment": "ok", "tests": "failed", "loss": "timed out", "model_eager": "ok"}
    assert result["device"] == "fake"
    assert [row["name"] for row in result["rows"]] == ["a/b"]
    table = (tmp_path / "out" / "gpu_day.md").read_text()
    assert "| loss | timed out |" in table
    assert "| a/b |  | 2.0 µs | 1.0 µs | 0.50 |" in table


def test_a_wrong_result_is_a_failure(gpu_day, tmp_path, monkeypatch):
    status, result = run(gpu_day, tmp_path, monkeypatch, "environment", "evaluation")
    assert status == 1
    assert {stage["outcome"] for stage in result["stages"]} == {"ok"}
    assert "| correct/evaluation | 0 |" in (tmp_path / "out" / "gpu_day.md").read_text()


def test_all_is_well(gpu_day, tmp_path, monkeypatch):
    assert run(gpu_day, tmp_path, monkeypatch, "environment", "ceilings")[0] == 0


def test_committed_results_have_one_row_a_name(gpu_day):
    for path in (ROOT / "benchmarks").glob("h100-*.json"):
        result = json.loads(path.read_text())
        names = [row["name"] for row in result["rows"]]
        assert len(names) == len(set(names)), path
        assert {"device", "date", "commit", "versions"} <= result.keys()
        assert gpu_day.markdown(result, json.loads(gpu_day.PREDICTIONS.read_text()))
