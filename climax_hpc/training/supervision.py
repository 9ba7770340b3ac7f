"""Runs the training loop under supervision: stop signals, heartbeat, and one clear report of how the run ends."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from climax_hpc.config.training import DataConfig
from climax_hpc.distributed import process_group
from climax_hpc.distributed.heartbeat import Heartbeat
from climax_hpc.distributed.launcher import OtherRankFailed, World
from climax_hpc.distributed.lost_ranks import RankLost, is_lost_rank, report_lost_rank
from climax_hpc.distributed.signals import Stopped, StopSignals
from climax_hpc.errors import NotEnoughMemory, UserError, exit_status
from climax_hpc.model import ModelConfig
from climax_hpc.training.progress import TrainingProgress
from climax_hpc.utils.memory_errors import memory_errors_explained

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


@contextlib.contextmanager
def supervise(
    world: World,
    run_folder: Path,
    progress: TrainingProgress,
    *,
    hang_timeout: float,
    memory_advice: str,
    part_written: Callable[[], bool],
) -> Iterator[RunMonitor]:
    """Catch stop signals, watch all ranks, record how the run ends, and end the other ranks if this one fails.

    Args:
        memory_advice: what helps if memory runs out.
        part_written: as of `Heartbeat`.

    Raises:
        RankLost: a collective failed because another rank is gone.
        OtherRankFailed: another rank has failed, and said why.
        NotEnoughMemory: the host or the device ran out of memory.
    """
    heartbeat = Heartbeat(
        world,
        run_folder,
        timeout=hang_timeout,
        on_abort=lambda message: progress.end("failed", message),
        part_written=part_written,
    )
    with StopSignals() as signals, heartbeat:
        try:
            with memory_errors_explained(memory_advice):
                yield RunMonitor(signals=signals, heartbeat=heartbeat)
        except Stopped:
            raise
        except BaseException as error:
            ended = _after_lost_rank(error, world, heartbeat)
            if not isinstance(ended, OtherRankFailed):
                heartbeat.fail(exit_status(ended))
            process_group.abandon(exit_status(ended))
            progress.end("failed", _message(ended))
            if ended is error:
                raise
            raise ended from None


def memory_advice(data: DataConfig, model: ModelConfig) -> str:
    """What helps a training run that is out of memory."""
    return (
        f"lower data.micro_batch_size (now {data.micro_batch_size}; raise data.micro_batches_per_step as much for the "
        f"same global batch), or set model.activation_checkpointing (now {str(model.activation_checkpointing).lower()})"
        "; `climax-hpc plan` estimates the memory"
    )


def _message(error: BaseException) -> str:
    """What state.json says."""
    if isinstance(error, OtherRankFailed):
        return "another rank failed; its message is in the log"
    if isinstance(error, RankLost):
        return error.message
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError | NotEnoughMemory) else f"{type(error).__name__}: {text}"


def _after_lost_rank(error: BaseException, world: World, heartbeat: Heartbeat) -> BaseException:
    """The error that ends this rank: where a collective failed, what is known of the rank that is gone."""
    if not is_lost_rank(error):
        return error
    heartbeat.news.wait(_SECONDS_FOR_THE_HEARTBEAT)
    while heartbeat.ending:  # the heartbeat knows more: it reports, and ends this process itself
        time.sleep(1)
    if heartbeat.failure:
        return OtherRankFailed(heartbeat.failure[1])
    advice = "the last checkpoint is intact: start the same command again to resume from it"
    return report_lost_rank(error, world, advice)
