"""Training state beside weights and optimiser that an exact resume needs: training.json of a checkpoint."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from climax_hpc.config.training import TrainConfig
from climax_hpc.training.step_guard import append_recent
from climax_hpc.utils.typed_json import Count, read_typed


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """State after `step` optimiser steps; the field names are the keys of training.json."""

    step: Count = 0
    """Optimiser steps done."""
    skipped: tuple[Count, ...] = ()
    """Global batches left out after loss spikes, ascending; the sampler skips them."""
    rollbacks: Count = 0
    """How often a loss spike sent the run back to a checkpoint."""
    recent_losses: tuple[float, ...] = ()
    """Recent losses, which a new loss is compared with (step_guard.py)."""
    validation_loss: float | None = None
    """Validation loss after this step; None if it was not computed at this step."""
    best_losses: tuple[float, ...] = ()
    """Lowest validation losses so far, ascending, at most `train.keep_best` or one."""
    stale_validations: Count = 0
    """Validations since the lowest validation loss."""
    cooldown: tuple[Count, ...] = ()
    """Steps at which the cool-down that the weights have gone through in part begins and ends; empty before one."""
    finished: bool = False
    """True if all steps are done or patience ran out."""
    ranks: Annotated[int, Field(ge=1)] = 1
    """Number of ranks that wrote the checkpoint."""

    @classmethod
    def read(cls, path: Path) -> "TrainingState":
        """Read training.json.

        Raises:
            UserError: names the key that is unknown or has a value that it cannot have.
        """
        fix = "use an older checkpoint, or the version that wrote it"
        return read_typed(path, cls, "the training state of a climax_hpc checkpoint", fix)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)

    def after_step(self, loss: float, *, cooldown: tuple[int, ...] = ()) -> "TrainingState":
        """State one optimiser step later."""
        recent = tuple(append_recent(self.recent_losses, loss))
        return replace(self, step=self.step + 1, recent_losses=recent, validation_loss=None, cooldown=cooldown)

    def after_validation(self, loss: float, *, keep: int) -> "TrainingState":
        """State with the validation loss of this step, which may be among the `keep` best."""
        improved = not self.best_losses or loss < self.best_losses[0]
        return replace(
            self,
            validation_loss=loss,
            best_losses=tuple(sorted((*self.best_losses, loss))[: max(1, keep)]),
            stale_validations=0 if improved else self.stale_validations + 1,
        )

    def has_ended(self, train: TrainConfig) -> bool:
        """True if the run has finished and `train.steps` is still the same."""
        out_of_patience = train.patience > 0 and self.stale_validations >= train.patience
        return self.finished and (out_of_patience or self.step == train.steps)

    def rolled_back(self, batches: range) -> "TrainingState":
        """State with these global batches skipped from now on."""
        return replace(self, skipped=tuple(sorted({*self.skipped, *batches})), rollbacks=self.rollbacks + 1)
