"""Normalisation of the model: what is subtracted from each variable, and what it is divided by; in every checkpoint.

`full`: z-scores with mean and standard deviation pooled over the training sources, as in ClimaX.
`anomaly`: departures from the source's climatology, divided by their pooled root mean square; and, for each lead time,
the damping r and the residual spread s of damped persistence (forecast anomaly = r · input anomaly).
`climax_hpc.data.normalisation_fit` computes them from the training sources.
"""

from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np

from climax_hpc.model.config import OutputMode
from climax_hpc.utils.typed_json import Number


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Numbers for each variable, in physical units unless stated otherwise."""

    mode: str
    """`full` or `anomaly`."""
    mean: dict[str, Number]
    """Mean of each variable, also of static ones."""
    std: dict[str, Number]
    """Standard deviation of each variable, also of static ones."""
    anomaly_std: dict[str, Number]
    """Root mean square of the anomalies; empty in `full` mode."""
    lead_hours: list[Number]
    """Lead times of the tables r and s [h]; empty in `full` mode."""
    r: dict[str, list[Number]]
    """Damping by lead time [1]."""
    s: dict[str, list[Number]]
    """Residual spread by lead time, in units of `anomaly_std`."""

    def __post_init__(self) -> None:
        if self.mode not in get_args(OutputMode):
            raise ValueError(f"mode {self.mode!r} is none of {', '.join(get_args(OutputMode))}")
        if self.mean.keys() != self.std.keys() or self.r.keys() != self.s.keys():
            raise ValueError("mean and std, or r and s, are not of the same variables")
        if not self.r.keys() <= self.anomaly_std.keys():
            raise ValueError("anomaly_std lacks a variable of r and s")
        if any(value < 0 for moments in (self.std, self.anomaly_std) for value in moments.values()):
            raise ValueError("a standard deviation is below 0")
        if any(len(table) != len(self.lead_hours) for tables in (self.r, self.s) for table in tables.values()):
            raise ValueError("r or s do not have one value per lead time")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)

    def extended(self, fitted: "Normalisation") -> "Normalisation":
        """For fine-tuning: this normalisation, which the weights were trained with, plus `fitted` for new variables.

        r and s are kept too: all pretraining sources determine them better than a short target data set.
        """
        tables: dict[str, Any] = {
            key: {
                name: np.interp(self.lead_hours, fitted.lead_hours, table).tolist()
                for name, table in getattr(fitted, key).items()
            }
            | getattr(self, key)
            for key in ("r", "s")
        }
        return Normalisation(
            mode=self.mode, lead_hours=self.lead_hours, **self._merged_moments(fitted), r=tables["r"], s=tables["s"]
        )

    def with_tables_of(self, fitted: "Normalisation") -> "Normalisation":
        """For fine-tuning to targets of another kind (means over a window): as `extended`, but r and s of `fitted`."""
        moments = self._merged_moments(fitted)
        s = {
            name: [value * fitted.anomaly_std[name] / moments["anomaly_std"][name] for value in table]
            for name, table in fitted.s.items()
        }
        return Normalisation(mode=self.mode, lead_hours=fitted.lead_hours, **moments, r=fitted.r, s=s)

    def _merged_moments(self, fitted: "Normalisation") -> dict[str, dict[str, float]]:
        return {key: getattr(fitted, key) | getattr(self, key) for key in ("mean", "std", "anomaly_std")}
