"""`climax-hpc status`: state, step, loss, throughput, time left and restarts of runs, read from their folders."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from climax_hpc.errors import UserError
from climax_hpc.launch.config import StatusConfig
from climax_hpc.launch.members import MEMBERS, read_table
from climax_hpc.launch.requeue import RECORD, Chain, read_chain
from climax_hpc.training import run_status
from climax_hpc.training.telemetry import Telemetry

_SILENT_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class Status:
    """The status of a run."""

    state: str
    """waiting, starting, running, silent, stopped, finished or failed."""
    step: int = 0
    steps: int | None = None
    loss: float | None = None
    samples_per_s: float | None = None
    eta_s: float | None = None
    seconds_ago: float | None = None
    """Time since the run last wrote its state [s]."""
    restarts: int = 0
    host: str = ""
    job_id: str = ""
    message: str = ""
    """Reason why it failed or will not be requeued."""
    telemetry: Telemetry | None = None
    """How fast it is, and what holds it up."""


def status(config: StatusConfig) -> None:
    """Print one line per run, and how fast a single one is.

    Raises:
        UserError: the folder holds no run.
    """
    folder = Path(config.run)
    runs = find_runs(folder)
    if not runs:
        raise UserError(
            f"run: {folder} holds no run; give the run folder of `climax-hpc pretrain` or finetune, or its parent"
        )
    known = [(run.name if run != folder else str(run), read_status(run)) for run in runs]
    print(as_text(known))
    if len(known) == 1 and (telemetry := known[0][1].telemetry):
        print("\n" + "\n".join(telemetry.as_text()))


def find_runs(folder: Path) -> list[Path]:
    """The folder itself if it is a run, else the members of a sweep, else the runs directly below it."""
    if _is_run(folder):
        return [folder]
    if (folder / MEMBERS).is_file():
        return [Path(member.run_folder) for member in read_table(folder / MEMBERS).members]
    begun = {path.with_name(path.name.removesuffix(RECORD)) for path in folder.glob(f"*{RECORD}")}
    return sorted({path for path in folder.glob("*/") if _is_run(path)} | begun)


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (run_status.FILE_NAME, "config.yaml"))


def read_status(folder: Path) -> Status:
    """The status of one run; `waiting` before its first output, and between two attempts of a job.

    Raises:
        UserError: its state file cannot be read.
    """
    path, chain = folder / run_status.FILE_NAME, read_chain(folder)
    if not path.is_file():
        stopped, restarts = (chain.stopped, chain.restarts) if chain else ("", 0)
        return Status(state="failed" if stopped else "waiting", restarts=restarts, message=stopped)
    return _known(run_status.read_state(path), chain or Chain(job=""))


def _known(content: dict[str, Any], chain: Chain) -> Status:
    updated = datetime.fromisoformat(content["updated"]).timestamp()
    state, message = _state(content, chain, updated)
    began = chain.attempts[-1].began if chain.attempts else 0.0
    if state in ("starting", "running") and time.time() - max(updated, began) > _SILENT_SECONDS:
        state = "silent"
    return Status(
        state=state,
        step=int(content["step"]),
        steps=int(content["steps"]),
        loss=content["loss"],
        samples_per_s=content["samples_per_s"],
        eta_s=content["eta_s"],
        seconds_ago=time.time() - updated,
        restarts=max(chain.restarts, int(content["restarts"])),
        host=content["host"] or "",
        job_id=content["job_id"] or "",
        message=message,
        telemetry=Telemetry(**content["telemetry"]) if content.get("telemetry") else None,
    )


def _state(content: dict[str, Any], chain: Chain, updated: float) -> tuple[str, str]:
    """State and message: those that training wrote, unless the record of attempts is newer."""
    state, message = str(content["state"]), str(content.get("message") or "")
    if state == "finished":
        return state, message
    if chain.stopped:
        return "failed", chain.stopped
    if chain.is_queued:
        return "waiting", ""
    # `updated` has whole seconds.
    if chain.attempts and chain.attempts[-1].after is None and chain.attempts[-1].began >= updated + 1:
        return "starting", ""
    return state, message


def as_text(runs: Sequence[tuple[str, Status]]) -> str:
    """A table for a terminal, with messages on separate lines below it."""
    header = ("run", "state", "step", "loss", "samples/s", "left", "restarts", "updated", "job", "host")
    rows = [header, *((name, *_cells(known)) for name, known in runs)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"{name}: {known.message}" for name, known in runs if known.message]
    return "\n".join(lines)


def _cells(known: Status) -> tuple[str, ...]:
    return (
        known.state,
        f"{known.step}/{known.steps}" if known.steps else "-",
        "-" if known.loss is None else f"{known.loss:.4f}",
        "-" if known.samples_per_s is None else f"{known.samples_per_s:.0f}",
        "-"
        if known.eta_s is None or known.state not in ("waiting", "starting", "running", "stopped")
        else duration(known.eta_s),
        str(known.restarts),
        "-" if known.seconds_ago is None else f"{duration(known.seconds_ago)} ago",
        known.job_id or "-",
        known.host or "-",
    )


def duration(seconds: float) -> str:
    """A duration in its two largest units: `2 d 3 h`, `4 min 10 s`."""
    left, parts = max(0, round(seconds)), []
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
