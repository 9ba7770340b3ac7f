"""Whether a job that ended goes on: the attempts of a run, each judged by what it left behind that survives.

FOLDER.attempts.json    beside the run folder: every attempt of the newest chain, and why the chain stopped, if it did
"""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from climax_hpc.errors import UserError
from climax_hpc.utils.files import read_json, write_json

EXIT_REQUEUE = 75
"""Exit status of a verb that stopped at a signal with a checkpoint (EX_TEMPFAIL), and of a job that will go on."""
BAD_INPUT = 2
"""Exit status of a verb that refused its input: trying again cannot help."""
RECORD = ".attempts.json"
"""What the name of a record adds to that of its run folder."""
_PATIENCE = 2  # attempts in a row without progress before the chain stops


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One job, or one run of a requeued job."""

    began: float
    """Seconds since 1970."""
    before: int
    """Progress when it began: see `progress`."""
    after: int | None = None
    """Progress when it ended; None while it runs."""
    status: int | None = None
    """Exit status of the verb; None while it runs, or where it was killed with its node."""

    @property
    def stalled(self) -> bool:
        """True where it ended without progress."""
        return self.after is not None and self.after <= self.before


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The attempts that one submission led to."""

    job: str
    """Id of the first job."""
    attempts: tuple[Attempt, ...] = ()
    stopped: str = ""
    """Why the chain stopped before the run was finished; empty where it has not."""

    @property
    def restarts(self) -> int:
        """Attempts after the first."""
        return max(0, len(self.attempts) - 1)

    @property
    def stalled(self) -> int:
        """Newest attempts in a row that made no progress."""
        count = 0
        for attempt in reversed(self.attempts):
            if not attempt.stalled:
                break
            count += 1
        return count


def progress(folder: Path) -> int:
    """What a run has saved: the step of its newest checkpoint, or the number of shards of a data set."""
    latest = folder / "checkpoints" / "latest"
    try:
        return int(latest.read_text().strip().rpartition("_")[2])
    except (OSError, ValueError):
        return sum(1 for _ in folder.rglob("*.h5"))


def record_of(folder: Path) -> Path:
    """Where the attempts of a run are written down: beside its folder, which must be empty when a run begins."""
    folder = folder.absolute()
    return folder.with_name(f"{folder.name}{RECORD}")


def read_chain(folder: Path) -> Chain | None:
    """The newest chain of a run; None where it never ran as a job.

    Raises:
        UserError: the record is damaged.
    """
    path = record_of(folder)
    if not path.is_file():
        return None
    content = read_json(path, "the attempts of a run")
    try:
        attempts = tuple(Attempt(**entry) for entry in content["attempts"])
        return Chain(job=content["job"], attempts=attempts, stopped=content["stopped"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is not a record of attempts ({error}): remove it and submit again") from None


def begin(folder: Path, job: str) -> Chain:
    """Write down that an attempt begins; one that never ended was lost with its node.

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
    """Write down how the attempt ended; whether the run goes on, and one line that says so.

    `error` is the verb's own line, where it is known.

    Every failure but refused input is tried again as long as there is progress: a lost rank or node, a full disk and a
    time limit look alike from here.
    """
    chain, now = read_chain(folder), progress(folder)
    if chain is None or chain.job != job or not chain.attempts:
        return False, f"no attempt of job {job} was begun in {record_of(folder)}"
    chain = _with_last(chain, replace(chain.attempts[-1], after=now, status=status))
    if status == 0:
        _write(folder, chain)
        return False, f"{folder} is finished after {_count(chain)}"
    if status == BAD_INPUT:
        chain = replace(chain, stopped=error or "bad input, see the error in the log of the job")
        _write(folder, chain)
        return False, f"{folder} stopped: {chain.stopped}"
    if chain.stalled >= _PATIENCE:
        return False, _stop(folder, chain, now).stopped
    _write(folder, chain)
    ended = "stopped with a checkpoint" if status == EXIT_REQUEUE else f"failed with status {status}"
    return True, f"{folder} {ended} at {now} after {_count(chain)}: it goes on"


def _stop(folder: Path, chain: Chain, now: int) -> Chain:
    reason = (
        f"{folder} stopped: no progress in {_PATIENCE} attempts in a row (still at {now}); read the log, then give it "
        "a longer time limit or a smaller train.checkpoint_every, and submit it again"
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
