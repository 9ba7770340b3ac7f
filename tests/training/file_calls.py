"""File-system calls of every rank at the start and at the resumption of a training, counted by strace.

python -m tests.training.file_calls --ranks 1 4 --json FILE

Counts from the parsed command line to the end of one optimiser step, without the imports: calls that name a file of the
data set or of the run folder, or a descriptor of one. The data set has two sources of some number of shards; the second
start resumes for one more step.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.synthetic import SyntheticSource, write_dataset
from tests.training.conftest import TWO_SOURCES, VARIABLES
from tests.training.processes import Ranks
from tests.training.system_calls import STRACE, calls_in

_ATTACHED = """
import re, time
while re.search(r"TracerPid:\\s+0\\s", open("/proc/self/status").read()):
    time.sleep(0.01)
"""


def small_training(folder: Path, *, shards_per_year: int) -> dict[str, Any]:
    """Settings of a training of anomalies on two sources of three and four years."""
    sources = {
        name: SyntheticSource(**fields, shards_per_segment=shards_per_year) for name, fields in TWO_SOURCES.items()
    }
    dataset = write_dataset(folder / "data", sources)
    model = {"variables": VARIABLES, "height": 8, "width": 16, "patch": 2, "embed_dim": 16, "depth": 2, "heads": 2}
    return {
        "run_folder": str(folder / "run"),
        "data": {
            "dataset": str(dataset),
            "period": ["2001", "2003"],
            "micro_batch_size": 1,
            "micro_batches_per_step": 4,
        },
        "model": model | {"output_mode": "anomaly"},
        "optimizer": {"lr": 1e-3, "warmup_steps": 0, "schedule": "constant"},
        "train": {"steps": 1, "log_every": 1, "checkpoint_every": 1, "threads": 1, "zero_stage": 1},
    }


def counted(settings: dict[str, Any], ranks: int, folder: Path) -> list[dict[str, int]]:
    """Calls of every rank on files of the data set and of the run folder, while it trains."""
    traces = [folder / f"{rank}.strace" for rank in range(ranks)]
    with Ranks(settings, ranks=ranks, preamble=_ATTACHED) as started:
        tracers = [
            subprocess.Popen([*STRACE, "-e", "trace=%file,%desc", "-o", str(trace), "-p", str(process.pid)])
            for trace, process in zip(traces, started.processes, strict=True)
        ]
        statuses, _, errors = started.wait(timeout=900)
        assert statuses == [0] * ranks, errors
        for tracer in tracers:
            tracer.wait(timeout=60)
    places = {"dataset": settings["data"]["dataset"], "run_folder": settings["run_folder"]}
    return [calls_in(trace.read_text(errors="replace").splitlines(), places) for trace in traces]


def measure(ranks: int, shards_per_year: int) -> dict[str, Any]:
    """Calls by rank of a first start, and of a second one that resumes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        settings = small_training(folder, shards_per_year=shards_per_year)
        began = time.monotonic()
        first = counted(settings, ranks, folder)
        settings["train"]["steps"] = 2
        second = counted(settings, ranks, folder)
    seconds = round(time.monotonic() - began)
    return {"ranks": ranks, "shards": 7 * shards_per_year, "first": first, "second": second, "seconds": seconds}


def main() -> None:
    """Print the calls as JSON, a line for each number of ranks and of shards."""
    parser = argparse.ArgumentParser(prog="python -m tests.training.file_calls", description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--shards-per-year", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--json", type=Path, help="file for the same numbers")
    options = parser.parse_args()
    found = []
    for ranks in options.ranks:
        for shards in options.shards_per_year:
            found.append(measure(ranks, shards))
            print(json.dumps(found[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
