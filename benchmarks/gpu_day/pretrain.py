"""Stage `pretrain`: `climax-hpc pretrain` of the 108 M recipe on synthetic shards, stopped and resumed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.gpu_day.record import Record
from benchmarks.gpu_day.schedule import AGGREGATION, LOSS
from climax_hpc.fields.variables import CLIMAX_48

STOPPED = 75
"""Exit status of a run that is to be started again."""
KERNELS = (AGGREGATION, LOSS)
ROOT = Path(__file__).parents[2]
SMALL = {"model.embed_dim": 32, "model.depth": 1, "model.heads": 2, "train.precision": "float32", "train.zero_stage": 0}


def pretrain(record: Record) -> None:
    """Seconds of a run that a signal stops, of the one that resumes it, and samples/s of the last logged steps."""
    folder = Path(tempfile.mkdtemp(prefix="gpu-day-"))
    micro_batch, steps, stop_after, every = (1, 12, 3, 1) if record.rehearsal else (64, 40, 20, 5)
    try:
        start = time.perf_counter()
        dataset = write_dataset(folder / "dataset", steps=40 if record.rehearsal else 300)
        record.add("pretrain/write_dataset", time.perf_counter() - start, "s")
        options: dict[str, object] = {
            "run_folder": folder / "run", "data.dataset": dataset, "data.micro_batch_size": micro_batch,
            "data.micro_batches_per_step": 1, "optimizer.warmup_steps": steps // 4, "train.steps": steps,
            "train.log_every": every, "train.checkpoint_every": steps // 2,
        }  # fmt: skip
        options |= SMALL if record.rehearsal else {}
        statuses = []
        for turn, stop in (("stopped_run", stop_after), ("resumed_run", None)):
            start = time.perf_counter()
            statuses.append(run(options, stop, record.rehearsal))
            record.add(f"pretrain/{turn}", time.perf_counter() - start, "s", of=KERNELS, status=statuses[-1])
        lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
        logged = [line for line in lines if "samples_per_second" in line]
        print(*logged, sep="\n", flush=True)
        # Every logged step once: nothing is lost at the stop, and nothing is trained twice.
        resumed = [line["step"] for line in logged] == list(range(every, steps + 1, every))
        checkpoints = sorted(path.name for path in (folder / "run" / "checkpoints").glob("step_*"))
        record.check("pretrain/stop_and_resume", resumed and statuses == [STOPPED, 0] and bool(checkpoints))
        last = logged[-1]["samples_per_second"]
        record.add("pretrain/samples_per_second", last, "1/s", of=KERNELS, micro_batch=micro_batch)
        record.add("pretrain/loss_first", logged[0]["loss"], "1", step=logged[0]["step"])
        record.add("pretrain/loss_last", logged[-1]["loss"], "1", step=logged[-1]["step"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_dataset(folder: Path, steps: int) -> Path:
    """A year of noise in all of ClimaX's variables on its grid."""
    from tests.synthetic import SyntheticSource, write_dataset

    channels = tuple(v.name for v in CLIMAX_48 if not v.static)
    source = SyntheticSource(
        channels=channels, years=1, steps_per_year=steps, shape=(32, 64), train_period=("2001", "2001"),
        climatology=False,
    )  # fmt: skip
    folder.mkdir()
    return write_dataset(folder, {"JCM-C_synthetic_r1i1p1f1": source})


def run(options: dict[str, object], stop_after: int | None, rehearsal: bool) -> int:
    """Exit status of one `climax-hpc pretrain`, stopped by SIGUSR1 once its log holds a step from `stop_after` on."""
    module = "benchmarks.gpu_day.bare_machine" if rehearsal else "climax_hpc"
    command = [sys.executable, "-m", module, "pretrain", "--config", "climax_108m_5.625deg"]
    command += [f"--{key}={value}" for key, value in options.items()]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    log = Path(str(options["run_folder"])) / "metrics.jsonl"
    while process.poll() is None:
        time.sleep(0.1)
        lines = log.read_text().splitlines() if stop_after and log.is_file() else []
        if stop_after and any(json.loads(line)["step"] >= stop_after for line in lines if line.endswith("}")):
            process.send_signal(signal.SIGUSR1)
            stop_after = None
    if process.returncode not in (0, STOPPED):
        raise RuntimeError(f"pretrain ended with status {process.returncode}")
    return process.returncode


STAGES = {"pretrain": pretrain}
