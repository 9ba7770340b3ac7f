"""The folder of a run: lines of metrics.jsonl that are cut off, or of something else, do not stop a run."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from climax_hpc.config.training import NoConfig
from climax_hpc.distributed.launcher import World
from climax_hpc.training.run_folder import RunFolder

BAD = b'5\n{}\n[1]\nnull\n{"step": "x"}\n{"step": true}\n\xff\xfe\n' + b"[" * 100_000 + b'\n{"step": 1, "lo'


def test_lines_that_are_no_metrics_are_left_out_when_a_run_resumes(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", NoConfig(), world=World(), manifest_sha256="0" * 64)
    run.path.mkdir()
    run.start(0)
    for step in (1, 2):
        run.log(step, {"loss": 1.0})
    run.close()
    metrics = run.path / "metrics.jsonl"
    whole = metrics.read_bytes()
    metrics.write_bytes(whole + BAD)
    run.start(1)
    run.close()
    assert metrics.read_bytes() == whole.splitlines(keepends=True)[0]


def test_integers_of_events_are_no_curves(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", NoConfig(), world=World(), manifest_sha256="0" * 64)
    run.path.mkdir()
    run.start(0)
    run.log(1, {"loss": 1.0, "slowest_rank": 3})
    run.log(1, {"event": "straggler", "rank": 3})
    run.log(1, {"event": "spike", "spike": 4.0})
    run.close()
    curves = EventAccumulator(str(run.path / "tensorboard")).Reload()
    assert sorted(curves.Tags()["scalars"]) == ["loss", "slowest_rank", "spike"]
