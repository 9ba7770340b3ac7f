"""Decides on requeueing: records the attempts of a run and whether each made progress.

FOLDER.attempts.json    beside the run folder: the attempts of the newest chain, and the reason if it stopped
"""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from climax_hpc.distributed.signals import EXIT_REQUEUE
from climax_hpc.errors import EXIT_BAD_INPUT, UserError
from climax_hpc.utils.files import write_json
from climax_hpc.utils.typed_json import read_typed

RECORD = ".attempts.json"
"""Suffix that a record adds to the name of its run folder."""
_PATIENCE = 2  # attempts in a row without progress after which the chain stops


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One job, or one run of a requeued job."""

    began: float
    """Start [s since 1970]."""
    before: int
    """Progress at the start; see `progress`."""
    after: int | None = None
    """Progress at the end; None while it runs."""
    status: int | None = None
    """Exit status of the subcommand; None while it runs, or if it was lost with its node."""

    @property
    def stalled(self) -> bool:
        """True if it ended without progress."""
        return self.after is not None and self.after <= self.before


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The attempts of one submission."""

    job: str
    """Id of the first job."""
    attempts: tuple[Attempt, ...] = ()
    stopped: str = ""
    """Reason why the chain stopped before the run was finished; empty otherwise."""

    @property
    def restarts(self) -> int:
        """Attempts after the first."""
        return max(0, len(self.attempts) - 1)

    @property
    def stalled(self) -> int:
        """Number of latest attempts in a row without progress."""
        count = 0
        for attempt in reversed(self.attempts):
            if not attempt.stalled:
                break
            count += 1
        return count


def progress(folder: Path) -> int:
    """Saved progress of a run: the step of its newest checkpoint, or the number of shards of a data set."""
    latest = folder / "checkpoints" / "latest"
    try:
        return int(latest.read_text().strip().rpartition("_")[2])
    except (OSError, ValueError):
        return sum(1 for _ in folder.rglob("*.h5"))


def record_of(folder: Path) -> Path:
    """File of the attempts of a run; it is beside the run folder, which must be empty when a run starts."""
    folder = folder.absolute()
    return folder.with_name(f"{folder.name}{RECORD}")


def read_chain(folder: Path) -> Chain | None:
    """The newest chain of a run; None if it never ran as a job.

    Raises:
        UserError: the record is damaged.
    """
    path = record_of(folder)
    if not path.is_file():
        return None
    return read_typed(path, Chain, "the attempts of a run", "remove it and submit again")


def begin(folder: Path, job: str) -> Chain:
    """Record the start of an attempt; an earlier attempt without an end was lost with its node.

    Raises:
        UserError: two attempts in a row made no progress.
    """
    now = progress(folder)
    chain = read_chain(folder)
    if chain is None or chain.job != job:
        chain = Chain(job=job)
    if chain.attempts and chain.attempts[-1].after is None:
        chain = _with_last(chain, replace(chain.attempts[-1], after=now))
    if chain.stalled >= _PATIENCE:
        raise UserError(_stop(folder, chain, now).stopped)
    chain = replace(chain, attempts=(*chain.attempts, Attempt(began=time.time(), before=now)), stopped="")
    _write(folder, chain)
    return chain


def end(folder: Path, job: str, status: int, error: str = "") -> tuple[bool, str]:
    """Record the end of an attempt; returns whether the run is requeued, and one line for the log.

    Any failure except bad input is retried as long as there is progress: a lost rank, a lost node, a full disk and a
    time limit look the same here.

    Args:
        error: last error line of the subcommand, if known.
    """
    chain, now = read_chain(folder), progress(folder)
    if chain is None or chain.job != job or not chain.attempts:
        return False, f"{record_of(folder)} has no started attempt of job {job}"
    chain = _with_last(chain, replace(chain.attempts[-1], after=now, status=status))
    if status == 0:
        _write(folder, chain)
        return False, f"{folder} finished after {_count(chain)}"
    if status == EXIT_BAD_INPUT:
        chain = replace(chain, stopped=error or "bad input, see the error in the job log")
        _write(folder, chain)
        return False, f"{folder} stopped: {chain.stopped}"
    if chain.stalled >= _PATIENCE:
        return False, _stop(folder, chain, now).stopped
    _write(folder, chain)
    ended = "stopped with a checkpoint" if status == EXIT_REQUEUE else f"failed with status {status}"
    return True, f"{folder} {ended} at {now} after {_count(chain)}; requeueing"


def _stop(folder: Path, chain: Chain, now: int) -> Chain:
    reason = (
        f"{folder} stopped: no progress in {_PATIENCE} attempts in a row (still at {now}); check the job log, then "
        "submit again with a longer time limit or a smaller train.checkpoint_every"
    )
    chain = replace(chain, stopped=reason)
    _write(folder, chain)
    return chain


def _with_last(chain: Chain, attempt: Attempt) -> Chain:
    return replace(chain, attempts=(*chain.attempts[:-1], attempt))


def _count(chain: Chain) -> str:
    return "one attempt" if len(chain.attempts) == 1 else f"{len(chain.attempts)} attempts"


def _write(folder: Path, chain: Chain) -> None:
    path = record_of(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    attempts = [asdict(attempt) for attempt in chain.attempts]
    write_json(path, {"job": chain.job, "stopped": chain.stopped, "attempts": attempts})
