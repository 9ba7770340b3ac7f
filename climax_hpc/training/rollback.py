"""After a loss spike: roll back to the last checkpoint and skip the batches around the spike.

Spikes of large transformers did not recur once some hundred batches around them were skipped, while the same batches
caused none elsewhere (Chowdhery et al. 2022, PaLM, section 5.1).
"""

from dataclasses import replace

from climax_hpc.errors import UserError
from climax_hpc.training.resume import ResumePoint
from climax_hpc.training.setup import TrainingSetup
from climax_hpc.training.state import TrainingState


def roll_back(setup: TrainingSetup, state: TrainingState, batch: int, loss: float) -> ResumePoint | None:
    """The checkpoint to return to, with the batches up to global batch `batch` skipped; None if there is none yet.

    Args:
        state: before the step whose loss is a spike.

    Raises:
        UserError: train.max_rollbacks rollbacks were done already.
    """
    train, progress = setup.config.train, setup.progress
    if state.rollbacks >= train.max_rollbacks:
        raise UserError(
            f"loss {loss:.4g} at step {state.step} (global batch {batch}) is a spike again after {state.rollbacks} "
            "rollbacks: lower optimizer.lr, lengthen optimizer.warmup_steps, or check the data (`climax-hpc verify`); "
            "the last checkpoint is intact"
        )
    resume_point = setup.newest()
    if resume_point.folder is None:
        progress.event(
            state.step,
            f"loss {loss:.4g} at step {state.step} is a spike, but there is no checkpoint to roll back to yet: "
            "training continues",
            event="spike",
            spike_loss=loss,
            batch=batch,
        )
        return None
    back = resume_point.state.step
    first = max(setup.data.sampler.without(state.skipped).batch_of(back), batch + 1 - train.spike_batches)
    progress.event(
        state.step,
        f"loss {loss:.4g} at step {state.step} is a spike: rolling back to the checkpoint of step {back}, skipping "
        f"global batches {first} to {batch} (rollback {state.rollbacks + 1} of {train.max_rollbacks})",
        event="rollback",
        spike_loss=loss,
        to_step=back,
        skipped=[first, batch],
    )
    merged = replace(resume_point.state, skipped=state.skipped, rollbacks=state.rollbacks)
    return replace(resume_point, state=merged.rolled_back(range(first, batch + 1)))
