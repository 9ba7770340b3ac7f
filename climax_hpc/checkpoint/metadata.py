"""What a checkpoint must remember of its training so that a forecast can be judged: lead times and grid."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from climax_hpc.errors import UserError
from climax_hpc.fields.averaging_window import Window, window_of
from climax_hpc.fields.grid import Grid
from climax_hpc.fields.regional_grid import Domain


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Kept in a checkpoint's model.json."""

    min_lead_hours: float
    """Shortest lead time that was drawn [h]."""
    max_lead_hours: float
    """Longest lead time that was drawn [h]."""
    lead_step_hours: float
    """Time step of the training data [h]: leads were its multiples."""
    grid: dict[str, list[Any]]
    """lat, lon, lat_bnds, lon_bnds of the cells that the model is fed with [degrees]."""
    region: dict[str, Any] | None = None
    """A regional model's region and the global grid that it lies on (`data/domain.py`); None for the globe."""
    window_hours: float | None = None
    """Length of the means that are forecast [h], from the lead time on; None for states."""
    window_step_hours: float | None = None
    """Distance of the steps that they count [h]."""
    task: str = "forecast"
    """What it was trained for: `forecast`, or `downscaling` to this grid."""

    def cells(self) -> Grid:
        """The grid as an object."""
        return Grid.from_dict(self.grid)

    def domain(self, patch: int) -> Domain | None:
        """What a regional model of this patch size sees; None for a model of the globe."""
        return Domain.from_dict(self.region, patch) if self.region else None

    @property
    def window(self) -> Window | None:
        """The window of the forecasts; None where they are states."""
        return window_of(self.window_hours, self.window_step_hours)

    def covers(self, lead_hours: float) -> bool:
        """True for a lead time between the shortest and the longest."""
        return self.min_lead_hours - 1e-6 <= lead_hours <= self.max_lead_hours + 1e-6

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any] | None) -> "Trained | None":
        """Inverse of `to_dict`; None for checkpoints that do not say."""
        return cls(**content) if content else None


def common_window(trained: Mapping[str, Trained | None]) -> Window | None:
    """What all models, by label, forecast means over; None where they forecast states.

    Raises:
        UserError: not all of them alike.
    """
    windows = {label: known.window if known else None for label, known in trained.items()}
    if len(set(windows.values())) > 1:
        what = {label: f"means over {w.hours:g} h" if w else "states at a time" for label, w in windows.items()}
        raise UserError(
            f"models: {', '.join(f'{label!r} forecasts {text}' for label, text in what.items())}: take those that "
            "forecast the same together"
        )
    return next(iter(windows.values()))
