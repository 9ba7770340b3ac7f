"""Durations of failures and checkpoints from the records of runs, made up here with known times."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from climax_hpc.distributed.signals import EXIT_REQUEUE
from climax_hpc.errors import UserError
from climax_hpc.launch.recovery import main, measure
from climax_hpc.launch.requeue import Attempt, record_of
from climax_hpc.tools.plan.recovery import Recovery
from climax_hpc.utils.typed_json import read_typed


def a_run(folder: Path, attempts: list[Attempt], times: dict[int, float], complete: dict[int, float]) -> Path:
    """A run folder with the records that are read: attempts, step -> time, checkpoint -> time of its completion."""
    folder.mkdir()
    rows = [{"step": step, "time": time, "loss": 1.0} for step, time in times.items()]
    rows.insert(1, {"step": 1, "time": 0.0, "validation_loss": 1.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step, time in complete.items():
        sums = folder / "checkpoints" / f"step_{step:08d}" / "SHA256SUMS.json"
        sums.parent.mkdir(parents=True)
        sums.touch()
        os.utime(sums, (time, time))
    record = {"job": "1", "stopped": "", "attempts": [asdict(attempt) for attempt in attempts]}
    record_of(folder).write_text(json.dumps(record))
    return folder


def lost_rank(began: float, last_log: float, ended: float, *, status: int = 137) -> Attempt:
    return Attempt(began=began, before=0, after=4, status=status, ended=ended, last_log=last_log)


# A step a second from 1000 s on. The checkpoint of step 4 is complete after 2.5 s; steps 5 and 6 take 1.5 and 1.2 s.
TIMES = {1: 1001.0, 2: 1002.0, 3: 1003.0, 4: 1004.0, 5: 1005.5, 6: 1006.7, 7: 1007.7, 8: 1008.7}


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """One run that started again in its job, and one that was requeued, after step 8; both resume at step 9."""
    first = lost_rank(1000.0, 1012.0, 1014.0)
    again = Attempt(began=1014.0, before=4, in_job=True)
    later = Attempt(began=1060.0, before=4)
    restarted = a_run(tmp_path / "a", [first, again], TIMES | {9: 1024.0, 10: 1025.0}, {4: 1006.5, 8: 1010.0})
    requeued = a_run(tmp_path / "b", [first, later], TIMES | {9: 1074.5, 10: 1075.5}, {4: 1006.5})
    return [restarted, requeued]


def test_each_duration(runs: list[Path]) -> None:
    found = measure(runs)
    assert found.detection == pytest.approx(2.0)
    assert found.restart == pytest.approx(10.0)
    assert found.requeue == pytest.approx(60.5)
    assert found.write == pytest.approx(2.5)
    assert found.stall == pytest.approx(0.7)  # 0.5 + 0.2; the row after the restart is not part of step 8's checkpoint
    assert "2 × stall, 2 × write, 2 × detection, 1 × restart, 1 × requeue" in found.source


def test_parts_of_a_restart(runs: list[Path]) -> None:
    """The ranks ended at 1014; the process began at 1015.5, and the first step was logged at 1024."""
    assert measure(runs).restart_parts == {}  # runs of earlier versions
    parts = {"imports": 4.0, "ranks": 0.5, "data": 1.0, "engine": 2.0}
    starts = [{"began": 999.0, "step": 0, "parts": parts}, {"began": 1015.5, "step": 4, "parts": parts}]
    (runs[0] / "starts.jsonl").write_text("".join(json.dumps(start) + "\n" for start in starts))
    found = measure(runs)
    assert found.restart_parts == {"launcher": 1.5, **parts, "first step": 1.0}
    assert sum(found.restart_parts.values()) == pytest.approx(found.restart)


def test_a_stop_at_the_time_limit_is_no_failure(tmp_path: Path, runs: list[Path]) -> None:
    stopped = lost_rank(1000.0, 1008.0, 1009.0, status=EXIT_REQUEUE)
    more = a_run(tmp_path / "c", [stopped, Attempt(began=2000.0, before=8)], TIMES | {9: 2500.0}, {})
    assert asdict(measure([*runs, more])) | {"source": ""} == asdict(measure(runs)) | {"source": ""}


def test_plan_reads_what_is_printed(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(run) for run in runs])
    path = tmp_path / "recovery.json"
    path.write_text(capsys.readouterr().out)
    assert read_typed(path, Recovery, "durations", "") == measure(runs)


def test_what_is_missing_is_named(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^no requeue in .*CLIMAX_HPC_RESTARTS=0"):
        measure(runs[:1])
    with pytest.raises(UserError, match="has no record of attempts or no logged steps"):
        measure([tmp_path / "nothing"])


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert "usage: python -m climax_hpc.launch.recovery RUN" in capsys.readouterr().err
