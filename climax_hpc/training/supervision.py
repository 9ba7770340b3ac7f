"""Runs the training loop under supervision: stop signals, heartbeat, and one clear report of how the run ends."""

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch.distributed

from climax_hpc.distributed.heartbeat import Heartbeat
from climax_hpc.distributed.launcher import OtherRankFailed, World
from climax_hpc.distributed.signals import EXIT_RANK_LOST, Stopped, StopSignals
from climax_hpc.errors import UserError, print_error
from climax_hpc.training.progress import TrainingProgress

# Parts of the messages of gloo and NCCL about a lost peer; for gloo torch raises a plain RuntimeError.
_LOST = ("gloo", "Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "ProcessGroup")
_SECONDS_FOR_THE_HEARTBEAT = 2.0


@dataclass(frozen=True, kw_only=True)
class RunMonitor:
    """What the training loop checks for stop signals, and reports its progress to."""

    signals: StopSignals
    heartbeat: Heartbeat

    def stop_message(self, step: int) -> str:
        """Why the run stops after `step` steps."""
        reason = self.signals.received.name if self.signals.received else "a stop signal to another rank"
        return f"stopped by {reason} after the checkpoint of step {step}; start the same command again to resume"


class RankLost(SystemExit):
    """Ends a rank that has lost contact with another, after a message; exit status EXIT_RANK_LOST."""

    def __init__(self) -> None:
        super().__init__(EXIT_RANK_LOST)


@contextlib.contextmanager
def supervise(
    world: World, run_folder: Path, progress: TrainingProgress, *, hang_timeout: float
) -> Iterator[RunMonitor]:
    """Catch stop signals, watch all ranks, and record how the run ends.

    Raises:
        RankLost: a collective failed because another rank is gone.
    """
    heartbeat = Heartbeat(
        world, run_folder, timeout=hang_timeout, on_abort=lambda message: progress.end("failed", message)
    )
    with StopSignals() as signals, heartbeat:
        try:
            yield RunMonitor(signals=signals, heartbeat=heartbeat)
        except Stopped:
            raise
        except OtherRankFailed:
            progress.end("failed", "another rank failed; its message is in the log")
            raise
        except UserError as error:
            progress.end("failed", " ".join(str(error).split()))
            raise
        except RuntimeError as error:
            if not _is_lost_rank(error):
                progress.end("failed", f"{type(error).__name__}: {error}")
                raise
            _report_lost_rank(error, world, heartbeat, progress)
            raise RankLost from None
        except BaseException as error:
            progress.end("failed", f"{type(error).__name__}: {error}")
            raise


def _is_lost_rank(error: RuntimeError) -> bool:
    return isinstance(error, torch.distributed.DistError) or any(words in str(error) for words in _LOST)


def _report_lost_rank(error: RuntimeError, world: World, heartbeat: Heartbeat, progress: TrainingProgress) -> None:
    """Print one line, unless the heartbeat knows more: then it reports and ends this process itself."""
    time.sleep(_SECONDS_FOR_THE_HEARTBEAT)
    while heartbeat.ending:
        time.sleep(1)
    reason = re.sub(r"^\[[^]]*\] ", "", str(error).splitlines()[0]).split(". ")[0]  # without gloo's source file
    message = (
        f"rank {world.rank} has lost contact with another rank ({reason}), which was killed or failed: see its message "
        "or the scheduler's log; the last checkpoint is intact: start the same command again to resume from it"
    )
    print_error(message)
    progress.end("failed", message)
