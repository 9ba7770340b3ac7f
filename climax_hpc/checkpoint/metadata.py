"""What a checkpoint stores beside its weights: model config, normalisation, variables, training data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from climax_hpc.config.parser import to_dict
from climax_hpc.config.renamed_keys import translate
from climax_hpc.data.normalisation import Normalisation
from climax_hpc.errors import UserError
from climax_hpc.fields.averaging_window import Window, window_of
from climax_hpc.fields.grid import Grid
from climax_hpc.fields.regional_grid import Domain
from climax_hpc.fields.variables import lookup
from climax_hpc.model.config import ModelConfig
from climax_hpc.utils.files import read_json
from climax_hpc.utils.typed_json import Count, Number, typed


@dataclass(frozen=True, kw_only=True)
class TrainingMetadata:
    """What evaluation and prediction need to know of the training: lead times, grid, task."""

    min_lead_hours: Number
    """Shortest lead time in training [h]."""
    max_lead_hours: Number
    """Longest lead time in training [h]."""
    lead_step_hours: Number
    """Time step of the training data [h]; lead times were multiples of it."""
    grid: dict[str, list[Any]]
    """lat, lon, lat_bnds, lon_bnds of the model's input cells [degrees]."""
    region: dict[str, Any] | None = None
    """Region of a regional model and the global grid around it (`fields/regional_grid.py`); None: global."""
    window_hours: Number | None = None
    """Length of the forecast time means [h], starting at the lead time; None: instantaneous states."""
    window_step_hours: Number | None = None
    """Distance between the time steps in such a mean [h]."""
    task: str = "forecast"
    """Name of the task in `climax_hpc/tasks/registry.py`."""
    sources: list[str] | None = None
    """Full names of the sources trained on; None where unknown, as in older checkpoints."""
    period: list[str] | None = None
    """First and last date of the training data; None: all times of the sources."""
    validation_period: list[str] | None = None
    """First and last date of the validation data; None: no validation."""

    def __post_init__(self) -> None:
        self.cells()
        if self.region is not None:
            Domain.check_dict(self.region)
        if self.min_lead_hours > self.max_lead_hours:
            raise ValueError("min_lead_hours is above max_lead_hours")
        if any(period is not None and len(period) != 2 for period in (self.period, self.validation_period)):
            raise ValueError("a period is no pair of dates")
        assert self.window is None or self.window.hours > 0

    def seen_of(self, source: str) -> list[tuple[tuple[str, str] | None, str]]:
        """Periods of a source that training has used, with what for; None: all times."""
        if source not in (self.sources or ()):
            return []
        found: list[tuple[tuple[str, str] | None, str]] = [(_pair(self.period), "trained")]
        return found + ([(_pair(self.validation_period), "validated")] if self.validation_period else [])

    def cells(self) -> Grid:
        """The grid as an object."""
        return Grid.from_dict(self.grid)

    def domain(self, patch: int) -> Domain | None:
        """Domain of a regional model with this patch size; None for a global model."""
        return Domain.from_dict(self.region, patch) if self.region else None

    @property
    def window(self) -> Window | None:
        """Averaging window of the forecasts; None where they are instantaneous states."""
        return window_of(self.window_hours, self.window_step_hours)

    def covers(self, lead_hours: float) -> bool:
        """True for a lead time between the shortest and the longest."""
        return self.min_lead_hours - 1e-6 <= lead_hours <= self.max_lead_hours + 1e-6

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


def _pair(period: list[str] | None) -> tuple[str, str] | None:
    return None if period is None else (period[0], period[1])


@dataclass(frozen=True, kw_only=True)
class _StoredModel:
    """The content of model.json."""

    step: Count
    model: ModelConfig
    normalisation: Normalisation
    in_variables: tuple[str, ...]
    out_variables: tuple[str, ...]
    trained: TrainingMetadata | None = None

    def __post_init__(self) -> None:
        known = {*self.model.variables, *self.model.projected}
        for key in ("in_variables", "out_variables"):
            if unknown := sorted(set(getattr(self, key)) - known):
                raise ValueError(f"{key} has {unknown[0]!r}, which is no variable of the model")
        norm, outputs = self.normalisation, set(self.out_variables)
        lacking = {*self.in_variables, *outputs} - norm.mean.keys()
        if self.model.output_mode == "anomaly":
            moving = {name for name in self.in_variables if lookup(name).has_anomalies}
            lacking |= (moving - norm.anomaly_std.keys()) | (outputs - norm.r.keys())
        if lacking:
            raise ValueError(f"normalisation lacks {min(lacking)!r}")


@dataclass(frozen=True, kw_only=True)
class CheckpointMetadata:
    """Content of a checkpoint's model.json."""

    step: int
    """Optimiser steps done."""
    config: ModelConfig
    normalisation: Normalisation
    in_variables: tuple[str, ...]
    """Registry names of the inputs in training."""
    out_variables: tuple[str, ...]
    """Registry names of the outputs in training."""
    training: TrainingMetadata | None = None
    """Lead times and grid of the training; None where unknown (converted checkpoints)."""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types; the keys are part of the checkpoint format."""
        return {
            "step": self.step,
            "model": to_dict(self.config),
            "normalisation": self.normalisation.to_dict(),
            "in_variables": list(self.in_variables),
            "out_variables": list(self.out_variables),
            "trained": self.training.to_dict() if self.training else None,
        }

    @classmethod
    def read(cls, path: Path) -> "CheckpointMetadata":
        """Read model.json; see `from_dict`."""
        return cls.from_dict(read_json(path, "the model description of a climax_hpc checkpoint"), str(path))

    @classmethod
    def from_dict(cls, content: Any, where: str) -> "CheckpointMetadata":
        """Inverse of `to_dict`; `where`: the file, for messages.

        Raises:
            UserError: names the key that is missing, unknown, or has a value that it cannot have.
        """
        if isinstance(content, dict) and isinstance(content.get("model"), dict):
            content = content | {"model": translate(content["model"], "model")}
        stored: _StoredModel = typed(content, _StoredModel, where, "use another checkpoint, or convert it again")
        return cls(
            step=stored.step,
            config=stored.model,
            normalisation=stored.normalisation,
            in_variables=stored.in_variables,
            out_variables=stored.out_variables,
            training=stored.trained,
        )


def common_window(training: Mapping[str, TrainingMetadata | None]) -> Window | None:
    """The averaging window that all models, by label, have in common; None where they forecast states.

    Raises:
        UserError: models with different windows.
    """
    windows = {label: known.window if known else None for label, known in training.items()}
    if len(set(windows.values())) > 1:
        what = {label: f"means over {w.hours:g} h" if w else "instantaneous states" for label, w in windows.items()}
        raise UserError(
            f"models: {', '.join(f'{label!r} forecasts {text}' for label, text in what.items())}: these cannot be "
            "compared; give models that forecast the same quantity"
        )
    return next(iter(windows.values()))
