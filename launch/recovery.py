"""Measures what checkpoints and failures cost, from the records of runs: `python -m climax_hpc.launch.recovery RUN …`.

The runs must have lost a rank: one attempt that started again inside its job, and one in a requeued job (export
CLIMAX_HPC_RESTARTS=0), among all runs. train.log_every=1 gives the best figures. Prints the JSON that
`climax-hpc plan --goodput true --failures.measured FILE` reads.
"""

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from climax_hpc.checkpoint.format import SUMS, checkpoints_in
from climax_hpc.distributed.signals import EXIT_REQUEUE
from climax_hpc.errors import UserError
from climax_hpc.launch.requeue import Attempt, read_chain
from climax_hpc.tools.plan.recovery import DURATIONS, Recovery
from climax_hpc.training.start_up import FILE_NAME as STARTS
from climax_hpc.utils.command_guard import command_guard


def measure(runs: Sequence[Path]) -> Recovery:
    """The durations of these runs, each the median of its occurrences.

    Raises:
        UserError: a run without records, or no occurrence of one of the durations in any run.
    """
    found: dict[str, list[float]] = {name: [] for name in DURATIONS}
    parts: dict[str, list[float]] = {}
    for run in runs:
        chain, times = read_chain(run), _step_times(run)
        if chain is None or not times:
            raise UserError(f"{run}: has no record of attempts or no logged steps; give run folders of batch jobs")
        _add_failures(found, chain.attempts, sorted(times.values()))
        _add_parts(parts, chain.attempts, sorted(times.values()), _starts(run))
        _add_checkpoints(found, run, times, [attempt.began for attempt in chain.attempts])
    if missing := [name for name, values in found.items() if not values]:
        raise UserError(
            f"no {', no '.join(missing)} in {', '.join(map(str, runs))}: needs a run that started again inside its "
            "job, one that was requeued after it lost a rank (export CLIMAX_HPC_RESTARTS=0), and checkpoints"
        )
    seconds = {name: round(max(0.0, median(values)), 3) for name, values in found.items()}
    counts = ", ".join(f"{len(values)} × {name}" for name, values in found.items())
    return Recovery(
        **seconds,
        source=f"{len(runs)} runs on {platform.node() or 'this machine'} ({counts})",
        restart_parts={part: round(median(values), 3) for part, values in parts.items()},
    )


def _step_times(run: Path) -> dict[int, float]:
    """Step -> when it was logged [s since 1970]; earlier versions logged no times."""
    try:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        return {int(row["step"]): float(row["time"]) for row in rows if "loss" in row and "time" in row}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _add_failures(found: dict[str, list[float]], attempts: Sequence[Attempt], times: Sequence[float]) -> None:
    for before, after in pairwise(attempts):
        first = next((time for time in times if time > after.began), None)
        if before.ended is None or first is None or before.status in (0, EXIT_REQUEUE):
            continue
        found["restart" if after.in_job else "requeue"].append(first - before.ended)
        if before.last_log is not None:
            found["detection"].append(before.ended - before.last_log)


def _starts(run: Path) -> list[Mapping[str, Any]]:
    """The starts of a run, see training/start_up.py; earlier versions recorded none."""
    try:
        return [json.loads(line) for line in (run / STARTS).read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []


def _add_parts(
    found: dict[str, list[float]], attempts: Sequence[Attempt], times: Sequence[float], starts: Sequence[Any]
) -> None:
    """Parts of each restart inside a job, from the end of the ranks to the first step."""
    for before, after in pairwise(attempts):
        first = next((time for time in times if time > after.began), None)
        start = next((start for start in starts if after.began < start["began"]), None)
        if not after.in_job or before.ended is None or first is None or start is None or start["began"] > first:
            continue
        parts = {"launcher": start["began"] - before.ended, **start["parts"]}
        parts["first step"] = first - start["began"] - sum(start["parts"].values())
        for part, seconds in parts.items():
            found.setdefault(part, []).append(max(0.0, seconds))


def _add_checkpoints(
    found: dict[str, list[float]], run: Path, times: dict[int, float], starts: Sequence[float]
) -> None:
    """Durations of the checkpoints that are kept: time lost in the rows that were logged while each was written."""
    steps = sorted(times)
    began = {step: times[before] for before, step in pairwise(steps)}
    usual = median(times[step] - began[step] for step in began) if began else 0.0
    for folder in checkpoints_in(run / "checkpoints"):
        step, complete = int(folder.name.removeprefix("step_")), (folder / SUMS).stat().st_mtime
        if step not in times or step == steps[-1]:  # after the last one training waits for it
            continue
        written = max(0.0, complete - times[step])
        beside = [s for s in steps if s > step and began[s] <= times[step] + written]
        if any(times[step] < start < times[beside[-1]] for start in starts):  # a restart, which is counted there
            continue
        found["write"].append(written)
        found["stall"].append(sum(times[s] - began[s] - usual for s in beside))


def main(arguments: Sequence[str]) -> None:
    """Print the durations of the runs as JSON."""
    with command_guard():
        if not arguments:
            raise UserError("usage: python -m climax_hpc.launch.recovery RUN …")
        print(json.dumps(asdict(measure([Path(word) for word in arguments])), indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
