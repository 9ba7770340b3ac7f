"""Submission on this machine: a pipeline with a failing member, and the `debug` executor."""

from collections.abc import Callable
from pathlib import Path

import pytest

from climax_hpc.launch import Resources, StagesConfig, SweepConfig, pipeline, read_status

from .forked_jobs import fork_all_but_the_first
from .small import forget_launcher, write_evaluation, write_settings

pytestmark = pytest.mark.slow
LOCAL = Resources(executor="local", parallel=2)


@pytest.fixture
def dataset(make_dataset: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small data set, in an environment without a launcher."""
    forget_launcher(monkeypatch)
    return make_dataset()


@pytest.mark.parametrize("all_as_processes", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_pipeline_with_a_member_that_fails(
    all_as_processes: bool, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not all_as_processes:
        started = fork_all_but_the_first(monkeypatch, tmp_path)
    stages = StagesConfig(
        pretrain=str(write_settings(tmp_path / "p.yaml", dataset, tmp_path / "pre", steps=4)),
        finetune=str(write_settings(tmp_path / "f.yaml", dataset, "from the table", steps=4)),
        evaluate=str(write_evaluation(tmp_path / "e.yaml", dataset)),
    )
    sweep = SweepConfig(variables=["2m_temperature", "specific_humidity_850"], lead_hours=["24"], seeds=[3])
    done = pipeline(stages, folder=tmp_path / "a pipeline", where=LOCAL, sweep=sweep)
    assert {stage: [o.ok for o in found] for stage, found in done.wait().items()} == {
        "pretrain": [True], "finetune": [True, False], "evaluate": [True], "report": [True],
    }  # fmt: skip
    assert all_as_processes or started == ["process"] + 4 * ["forked"]
    results = done.results()
    assert results.column("state") == ["finished", "failed"]
    assert "specific_humidity_850 is not in model.variables" in results.column("message")[1]
    rmse, baseline = (float(results.column(name)[0]) for name in ("rmse", "best_baseline_rmse"))
    assert 0 < baseline < 100
    assert rmse == pytest.approx(baseline, rel=0.5)  # hardly trained, anomaly mode is damped persistence
    assert (done.folder / "results.tsv").read_text() == results.to_tsv()
    assert len(list(done.folder.glob("report_*.html"))) == 1
    page = (done.folder / "report.html").read_text()
    assert "1 finished, 1 failed; 1 evaluated" in page
    assert "specific_humidity_850 is not in model.variables" in page
    assert results.column("rmse")[0] in page
    assert "| 24 |" in (done.folder / "results.md").read_text()


def test_debug_runs_in_this_process_and_skips_what_cannot_run(dataset: Path, tmp_path: Path) -> None:
    stages = StagesConfig(
        pretrain=str(write_settings(tmp_path / "p.yaml", tmp_path / "no data", tmp_path / "pre", steps=2)),
        finetune=str(write_settings(tmp_path / "f.yaml", dataset, "from the table", steps=2)),
        evaluate=str(write_evaluation(tmp_path / "e.yaml", dataset)),
    )
    where, sweep = Resources(executor="debug"), SweepConfig(seeds=[1, 2])
    done = pipeline(stages, folder=tmp_path / "pipeline", where=where, sweep=sweep)
    outcomes = done.wait()
    assert "no data" in outcomes["pretrain"][0].message
    assert (outcomes["finetune"], outcomes["evaluate"]) == ([], [])
    assert outcomes["report"][0].ok
    assert read_status(tmp_path / "pre").state == "failed"
    assert done.results().column("state") == ["waiting", "waiting"]
