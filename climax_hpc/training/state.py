"""What a run must remember beside weights and optimiser to go on as if it had never stopped: training.json."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from climax_hpc.errors import UserError
from climax_hpc.training.step_guard import remember
from climax_hpc.utils.files import read_json


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """State after `step` optimiser steps; training.json of a checkpoint."""

    step: int = 0
    """Optimiser steps done."""
    skipped: tuple[int, ...] = ()
    """Global batches left out after loss spikes, ascending; they turn the sample order into the one that was used."""
    rollbacks: int = 0
    """Times that a spike sent the run back to a checkpoint."""
    recent_losses: tuple[float, ...] = ()
    """Losses that say what is usual (guard.py)."""
    validation_loss: float | None = None
    """Loss on the validation period after this very step; null where it was not computed then."""
    best_losses: tuple[float, ...] = ()
    """Lowest validation losses so far, ascending, at most `train.keep_best` or one."""
    stale_validations: int = 0
    """Validations since the lowest."""
    finished: bool = False
    """Nothing is left to do: all steps are done, or patience ran out."""
    ranks: int = 1
    """Ranks that wrote the checkpoint."""

    @classmethod
    def read(cls, path: Path) -> "TrainingState":
        """From training.json.

        Raises:
            UserError: it is no such file.
        """
        content: dict[str, Any] = read_json(path, "the training state of a climax_hpc checkpoint")
        for key, value in content.items():
            content[key] = tuple(value) if isinstance(value, list) else value
        try:
            return cls(**content)
        except TypeError as error:
            raise UserError(
                f"{path} is not a training state of this version ({error}): use the version that wrote it"
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)

    def after_step(self, loss: float) -> "TrainingState":
        """One optimiser step later."""
        return replace(
            self, step=self.step + 1, recent_losses=tuple(remember(self.recent_losses, loss)), validation_loss=None
        )

    def after_validation(self, loss: float, *, keep: int) -> "TrainingState":
        """With the validation loss of this step, which may be among the `keep` best."""
        improved = not self.best_losses or loss < self.best_losses[0]
        return replace(
            self,
            validation_loss=loss,
            best_losses=tuple(sorted((*self.best_losses, loss))[: max(1, keep)]),
            stale_validations=0 if improved else self.stale_validations + 1,
        )

    def rolled_back(self, batches: range) -> "TrainingState":
        """With these global batches left out from now on."""
        return replace(self, skipped=tuple(sorted({*self.skipped, *batches})), rollbacks=self.rollbacks + 1)
