"""All stages in turn, each a process with a deadline: `python -m benchmarks.gpu_day OUT SECONDS [--rehearsal]`.

OUT receives gpu_day.json (header, rows, stages), gpu_day.md (the table), gpu_day.log, profile.txt and ncu.csv. A stage
that fails or runs past its deadline is recorded, and the others follow; figures of a kernel that is not right are
withheld. Stages that time nothing run beside each other. A rehearsal runs all of them at tiny sizes on the CPU, two at
a time, and plants three that go wrong.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_day.process import StageProcess
from benchmarks.gpu_day.rehearsal import problems
from benchmarks.gpu_day.schedule import PLANTED, STAGES
from benchmarks.gpu_day.table import PREDICTIONS, markdown
from benchmarks.gpu_day.verdict import is_check, judged

LEAST = 10
"""Seconds under which no stage is started."""
RESERVE = 5
"""Seconds kept for the end."""
TOGETHER, TOGETHER_REHEARSED = 11, 2
"""How many stages that measure no times run beside each other."""
PATIENCE = 10
"""How much longer a stage may take in a rehearsal, where other work slows it."""
EXTRAS = ("profile.txt", "ncu.csv")
"""Files of stages that are handed out as they are."""
EXTRA_BYTES = 8 << 20


class Day:
    """One run of the stages, and what is known of it so far."""

    def __init__(self, out: Path, folder: Path, end: float, rehearsal: bool) -> None:
        self.out, self.folder, self.end, self.rehearsal = out, folder, end, rehearsal
        self.stages: list[dict[str, Any]] = []
        self.predictions = json.loads(PREDICTIONS.read_text())
        (out / "gpu_day.log").write_bytes(b"")

    def run(self, names: list[str]) -> None:
        """Every stage, those that measure times one by one; whatever happens, none is left running."""
        waiting, running = list(names), list[StageProcess]()
        try:
            while waiting or running:
                for process in [p for p in running if p.ended()]:
                    running.remove(process)
                    self.keep(process.end(), process)
                while waiting and self.has_room(waiting[0], running):
                    self.start(waiting.pop(0), running)
                time.sleep(0.05)
        finally:
            for process in running:
                self.keep(process.end() | {"outcome": "interrupted"}, process)

    def has_room(self, name: str, running: list[StageProcess]) -> bool:
        """Whether this stage can start beside those that run."""
        if self.rehearsal:
            return len(running) < TOGETHER_REHEARSED
        alone = any((STAGES | PLANTED)[stage].alone for stage in (name, *(process.name for process in running)))
        return not running or (not alone and len(running) < TOGETHER)

    def start(self, name: str, running: list[StageProcess]) -> None:
        """Start a stage, or record that no time is left for it."""
        left = self.end - time.monotonic() - RESERVE
        if left < LEAST:
            self.keep({"stage": name, "outcome": "left out", "seconds": 0})
        else:
            seconds = (STAGES | PLANTED)[name].seconds
            if self.rehearsal and name != "planted_hang":
                seconds *= PATIENCE
            running.append(StageProcess(name, self.folder, min(left, seconds), self.rehearsal))

    def keep(self, entry: dict[str, Any], process: StageProcess | None = None) -> None:
        """Record how a stage ended, and write all files anew."""
        print(json.dumps(entry), flush=True)
        self.stages.append(entry)
        if process:
            with (self.out / "gpu_day.log").open("ab") as file:
                file.write(process.output())
        result = self.result()
        (self.out / "gpu_day.json").write_text(json.dumps(result, indent=1))
        (self.out / "gpu_day.md").write_text(markdown(result, self.predictions))
        for extra in EXTRAS:
            if (self.folder / extra).is_file():
                (self.out / extra).write_bytes((self.folder / extra).read_bytes()[:EXTRA_BYTES])

    def result(self) -> dict[str, Any]:
        """Header of the environment stage and the rows of all stages, one flat list, in the order of the schedule."""
        result: dict[str, Any] = {"schema": "climax_hpc/benchmark"}
        rows: list[dict[str, Any]] = []
        order = list(STAGES | PLANTED)
        for entry in sorted(self.stages, key=lambda entry: order.index(entry["stage"])):
            path = self.folder / f"{entry['stage']}.json"
            if path.is_file():
                found = json.loads(path.read_text())
                result |= found["header"]
                rows += found["rows"]
        shown, withheld = judged(rows, self.stages)
        return result | {"stages": self.stages, "withheld": withheld, "rows": shown}


def main(arguments: list[str] | None = None) -> int:
    """Exit status 1 where a stage failed or a kernel is wrong; in a rehearsal, where it is not as planted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_day", description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--rehearsal", action="store_true", help="tiny sizes on the CPU, in Triton's interpreter")
    parser.add_argument("--stages", nargs="+", choices=[*STAGES, *PLANTED], help="all, unless these are given")
    parser.add_argument("--since", type=float, help="when the seconds began [Unix time]; default: now")
    options = parser.parse_args(arguments)
    if not options.seconds > 0:
        parser.error(f"SECONDS must be positive, not {options.seconds}")
    names = options.stages or list(STAGES)
    if options.rehearsal and not options.stages:
        names[2:2] = PLANTED
    options.out.mkdir(parents=True, exist_ok=True)
    spent = time.time() - options.since if options.since else 0.0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="gpu-day-") as folder:
        day = Day(options.out, Path(folder), time.monotonic() + options.seconds - spent, options.rehearsal)
        day.run(names)
        result = day.result()
    print((options.out / "gpu_day.md").read_text())
    if options.rehearsal:
        found = problems(options.out, names)
        print(*(f"rehearsal: {problem}" for problem in found or ["as it should be"]), sep="\n", file=sys.stderr)
        return int(bool(found))
    wrong = any(not row["value"] for row in result["rows"] if is_check(row))
    return int(wrong or any(entry["outcome"] != "ok" for entry in day.stages))


if __name__ == "__main__":
    sys.exit(main())
