"""Decides on requeueing: records the attempts of a run and whether each made progress.

FOLDER.attempts.json    beside the run folder: the attempts of the newest chain, and the reason if it stopped
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from climax_hpc.data_prep.packing.first_pass import finished_units
from climax_hpc.distributed.signals import EXIT_RANK_LOST, EXIT_REQUEUE
from climax_hpc.errors import EXIT_BAD_INPUT, UserError
from climax_hpc.launch import slurm_job
from climax_hpc.launch.config import WARNING_MARGIN_SECONDS
from climax_hpc.utils.files import write_json
from climax_hpc.utils.folder_lock import folder_lock
from climax_hpc.utils.typed_json import read_typed

RECORD = ".attempts.json"
"""Suffix that a record adds to the name of its run folder."""
_PATIENCE = 2  # attempts in a row without progress after which the chain stops
_LONGEST_WARNING_SECONDS = 400.0  # 300 of the scripts; a signal before that was not sent because of the time limit
# A chain that is restarted more often than this makes little progress beside its start-up, and keeps the queue busy.
_MOST_STARTS, _WITHIN_SECONDS = 5, 600.0
_KILLED = 128  # plus the number of a signal: exit status of a killed process


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One start of the ranks: a job, a run of a requeued job, or a restart inside a job."""

    began: float
    """Start [s since 1970]."""
    before: int
    """Progress at the start; see `progress`."""
    after: int | None = None
    """Progress at the end; None while it runs."""
    status: int | None = None
    """Exit status of the subcommand; None while it runs, or if it was lost with its node."""
    ended: float | None = None
    """End [s since 1970]; None while it runs, or if it was lost with its node."""
    last_log: float | None = None
    """When training last logged a step [s since 1970]; None if it never did, or is not training."""
    in_job: bool = False
    """True if the ranks were started again inside the job of the attempt before."""

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

    @property
    def best(self) -> int:
        """Most progress that any attempt has seen."""
        return max((max(attempt.before, attempt.after or 0) for attempt in self.attempts), default=0)

    @property
    def is_too_fast(self) -> bool:
        """True if the latest attempts began in quick succession."""
        latest = self.attempts[-_MOST_STARTS:]
        return len(latest) == _MOST_STARTS and time.time() - latest[0].began < _WITHIN_SECONDS

    @property
    def restarts_in_job(self) -> int:
        """Latest attempts in a row that were started inside the present job."""
        return next((i for i, attempt in enumerate(reversed(self.attempts)) if not attempt.in_job), 0)

    @property
    def is_queued(self) -> bool:
        """True if the latest attempt has ended and another one follows."""
        return bool(
            self.attempts and self.attempts[-1].after is not None and self.attempts[-1].status != 0 and not self.stopped
        )


def progress(folder: Path) -> int:
    """Saved progress of a run, which an interruption does not lose; 0 for an absent folder.

    Training: the step of the newest checkpoint. Packing: finished work units of every pass. An evaluation keeps nothing
    before its end: it starts again from the beginning.
    """
    latest = folder / "checkpoints" / "latest"
    try:
        return int(latest.read_text().strip().rpartition("_")[2])
    except (OSError, ValueError):
        return finished_units(folder)


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


def begin(folder: Path, job: str, *, restarted: bool = False) -> Chain:
    """Record the start of an attempt; an earlier attempt without an end was lost with its node.

    Args:
        restarted: this is not the first start of the chain, so its record must exist.

    Raises:
        UserError: two attempts in a row made no progress, too many starts in a short time, or what earlier attempts
            saved is gone; another process writes there, whose record is kept.
    """
    if folder.is_dir():
        with folder_lock(folder, "run_folder"):
            pass
    now = progress(folder)
    chain = read_chain(folder)
    if chain is None or chain.job != job:
        if restarted and now == 0:
            raise UserError(
                f"{folder} is gone, and so is the record of earlier attempts ({record_of(folder)}): this job was "
                "started before; restore them, or submit again to start from the beginning"
            )
        chain = Chain(job=job)
    if chain.best and now == 0:
        reason = f"{folder} is gone, or its checkpoints: an earlier attempt reached {chain.best}"
        fix = "restore it, or submit again to start from the beginning"
        raise UserError(_stop(folder, chain, f"{reason}; {fix}").stopped)
    if chain.attempts and chain.attempts[-1].after is None:
        chain = _with_last(chain, replace(chain.attempts[-1], after=now))
    if reason := _reason_to_stop(folder, chain, now):
        raise UserError(_stop(folder, chain, reason).stopped)
    chain = replace(chain, attempts=(*chain.attempts, Attempt(began=time.time(), before=now)), stopped="")
    _write(folder, chain)
    return chain


def end(
    folder: Path,
    job: str,
    status: int,
    error: str = "",
    *,
    slurm: Mapping[str, str] | None = None,
    left: float | None = None,
) -> tuple[bool, str]:
    """Record the end of an attempt; returns whether the run is requeued, and one line for the log.

    Any failure except bad input is retried as long as there is progress: a lost rank, a lost node and a time limit
    look the same here.

    Args:
        error: last error line of the subcommand, if known.
        slurm: fields of `scontrol show job` (`slurm_job.fields_of`); None outside Slurm.
        left: time that was left when Slurm warned of the time limit [s]; None if it did not.
    """
    chain, now = read_chain(folder), progress(folder)
    if chain is None or chain.job != job or not chain.attempts:
        return False, f"{record_of(folder)} has no started attempt of job {job}"
    chain = _with_last(chain, _ended(folder, chain.attempts[-1], now, status))
    if status == 0:
        _write(folder, chain)
        return False, f"{folder} finished after {_count(chain)}"
    if status == EXIT_BAD_INPUT:
        chain = _stop(folder, chain, error or "bad input, see the error in the job log")
        return False, f"{folder} stopped: {chain.stopped}"
    ended = "stopped with a checkpoint" if status == EXIT_REQUEUE else f"failed with status {status}"
    ended = f"{folder} {ended} at {now} after {_count(chain)}"
    if slurm and not slurm_job.is_running(slurm):
        # Cancelled by a user, or already being requeued by Slurm.
        state = slurm["JobState"]
        chain = replace(chain, stopped="cancelled; submit it again to resume" if state == "CANCELLED" else "")
        _write(folder, chain)
        return False, f"{ended}; Slurm lists the job as {state}: it is not requeued"
    if reason := _reason_to_stop(folder, chain, now) or _warned_too_early(folder, slurm or {}, left):
        return False, _stop(folder, chain, reason).stopped
    _write(folder, chain)
    return True, f"{ended}; requeueing"


def restart(folder: Path, job: str, status: int, *, most: int, slurm: Mapping[str, str] | None = None) -> str:
    """Record that the ranks are started again inside their job; one line for the log, empty if they must not be.

    That spares the wait in the queue and the start of the job. Only a training that has lost ranks is started again,
    and only after a new checkpoint: a failure that repeats at the same place is requeued, once, since its nodes may be
    at fault, and then ends the chain. The rules of `end` hold for restarts too.

    Args:
        most: restarts of one job; 0: none, as after a warning of the time limit.
        slurm: as of `end`.
    """
    chain, now = read_chain(folder), progress(folder)
    if not _lost_ranks(folder, status) or chain is None or chain.job != job or not chain.attempts:
        return ""
    ended = _ended(folder, chain.attempts[-1], now, status)
    chain = _with_last(chain, ended)
    count = chain.restarts_in_job + 1
    gone = bool(slurm) and not slurm_job.is_running(slurm or {})
    if gone or count > most or ended.stalled or _reason_to_stop(folder, chain, now):
        return ""
    again = Attempt(began=time.time(), before=now, in_job=True)
    _write(folder, replace(chain, attempts=(*chain.attempts, again)))
    return (
        f"{folder} failed with status {status} at {now} after {_count(chain)}; its ranks start again in this job "
        f"(restart {count} of at most {most})"
    )


def _lost_ranks(folder: Path, status: int) -> bool:
    """True if a training ended because ranks hung or were killed, and not with an error of its own.

    A shell and srun report a process that a signal killed as 128 + its number; of several statuses srun has the
    highest.
    """
    return (folder / "checkpoints" / "latest").is_file() and (status == EXIT_RANK_LOST or status > _KILLED)


def _reason_to_stop(folder: Path, chain: Chain, now: int) -> str:
    """Why another attempt does not help; empty if it may."""
    if chain.stalled >= _PATIENCE:
        return (
            f"{folder} stopped: no progress in {_PATIENCE} attempts in a row (still at {now}); check the job log, then "
            "submit again with a longer time limit or a smaller train.checkpoint_every"
        )
    if chain.is_too_fast:
        return (
            f"{folder} stopped: {_MOST_STARTS} starts within {_WITHIN_SECONDS / 60:.0f} minutes (now at {now}); check "
            "the job log, then submit again with a longer time limit: start-up takes most of so short a job"
        )
    return ""


def _warned_too_early(folder: Path, slurm: Mapping[str, str], left: float | None) -> str:
    """Why the time limit leaves no time to work before the warning; empty if it does."""
    limit = slurm_job.seconds(slurm.get("TimeLimit", ""))
    if left is None or limit is None or slurm_job.is_preempted(slurm):
        return ""
    if left > _LONGEST_WARNING_SECONDS or limit - left >= WARNING_MARGIN_SECONDS:
        return ""
    return (
        f"{folder} stopped: Slurm warns {left:.0f} s before the time limit of {limit:.0f} s, which leaves less than "
        f"{WARNING_MARGIN_SECONDS} s to work in; submit again with a longer --time or a smaller --signal"
    )


def _stop(folder: Path, chain: Chain, reason: str) -> Chain:
    chain = replace(chain, stopped=reason)
    _write(folder, chain)
    return chain


def _with_last(chain: Chain, attempt: Attempt) -> Chain:
    return replace(chain, attempts=(*chain.attempts[:-1], attempt))


def _ended(folder: Path, attempt: Attempt, now: int, status: int) -> Attempt:
    metrics = folder / "metrics.jsonl"
    last = metrics.stat().st_mtime if metrics.is_file() else None
    return replace(attempt, after=now, status=status, ended=time.time(), last_log=last)


def _count(chain: Chain) -> str:
    return "one attempt" if len(chain.attempts) == 1 else f"{len(chain.attempts)} attempts"


def _write(folder: Path, chain: Chain) -> None:
    path = record_of(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    attempts = [asdict(attempt) for attempt in chain.attempts]
    write_json(path, {"job": chain.job, "stopped": chain.stopped, "attempts": attempts})
