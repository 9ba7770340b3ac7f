"""What a checkpoint must remember of its training so that a forecast can be judged: lead times and grid."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from climax_hpc.grid import Grid


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
    """lat, lon, lat_bnds, lon_bnds of the training data [degrees]."""
    task: str = "forecast"
    """What it was trained for: `forecast`, or `downscaling` to this grid."""

    def cells(self) -> Grid:
        """The grid as an object."""
        return Grid(**{key: np.asarray(values, np.float64) for key, values in self.grid.items()})

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
