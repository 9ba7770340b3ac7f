"""Scores as streaming sums over forecasts: exact over the whole test set, whatever the batches (WeatherBench 2).

With w the area weight of a cell, <·> its weighted mean over the valid cells of one forecast, f forecast, o truth and
c the climatology of the valid time, all in physical units:

    RMSE = sqrt(mean over forecasts of <(f - o)²>)      MAE = mean of <|f - o|>      bias = mean of <f - o>
    ACC  = mean over forecasts of <(f - c)(o - c)> / sqrt(<(f - c)²> <(o - c)²>)      (uncentred)

Dimensions: B forecasts · O variables · H, W grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from climax_hpc.variables import lookup

Array = NDArray[np.float64]

METRICS = ("rmse", "mae", "bias", "acc")
MOMENTS = ("product", "forecast_square", "truth_square")  # of anomalies, for the series alone


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What a batch of forecasts is scored against: fields (B, O, H, W) in physical units, and the cells that count."""

    truth_BOHW: Array
    climatology_BOHW: Array
    valid_BOHW: NDArray[np.bool_]
    weight_H: Array
    """Area weight of a cell in each row, in any unit."""

    @cached_property
    def share_BOHW(self) -> Array:
        """Every cell's share of the valid area: 0 where not valid, NaN in forecasts without a valid cell."""
        weight_BOHW = self.valid_BOHW * self.weight_H[:, None]
        area_BO11 = weight_BOHW.sum(axis=(-2, -1), keepdims=True)
        return np.divide(weight_BOHW, area_BO11, out=np.full(weight_BOHW.shape, np.nan), where=area_BO11 > 0)

    @cached_property
    def anomaly_BOHW(self) -> Array:
        """Truth less climatology, 0 where not valid."""
        return self.difference(self.truth_BOHW, self.climatology_BOHW)

    @cached_property
    def anomaly_square_BO(self) -> Array:
        """<(o - c)²>."""
        return self.mean(self.anomaly_BOHW, self.anomaly_BOHW)

    def difference(self, a_BOHW: Array, b_BOHW: Array) -> Array:
        """a - b, 0 where not valid: what is missing there cannot reach a sum."""
        return np.where(self.valid_BOHW, a_BOHW - b_BOHW, 0.0)

    def mean(self, *factors: Array) -> Array:
        """<product of the fields> (B, O); NaN where no cell is valid."""
        return np.einsum(",".join(["bohw"] * (1 + len(factors))) + "->bo", self.share_BOHW, *factors)

    def select(self, places: Sequence[int]) -> "Truth":
        """The same for some of the variables."""
        if list(places) == list(range(self.truth_BOHW.shape[1])):
            return self
        fields = {
            f"{name}_BOHW": getattr(self, f"{name}_BOHW")[:, list(places)] for name in ("truth", "climatology", "valid")
        }
        return Truth(**fields, weight_H=self.weight_H)


class ScoreSums:
    """Sums over the forecasts of one model at one lead time; sums of parts of a test set add up."""

    def __init__(self, variables: Sequence[str]) -> None:
        self._variables = tuple(variables)
        self._sums = {metric: np.zeros(len(self._variables)) for metric in METRICS}
        self._counts = {metric: np.zeros(len(self._variables), np.int64) for metric in METRICS}
        self._parts: dict[str, list[Array]] = {name: [] for name in (*METRICS, *MOMENTS)}

    def add(self, forecast_BOHW: Array, against: Truth) -> None:
        """Take in a batch of forecasts in physical units; cells that are not valid in `against` may hold anything."""
        error_BOHW = against.difference(forecast_BOHW, against.truth_BOHW)
        anomaly_BOHW = against.difference(forecast_BOHW, against.climatology_BOHW)
        self._take("rmse", against.mean(error_BOHW, error_BOHW))
        self._take("mae", against.mean(np.abs(error_BOHW)))
        self._take("bias", against.mean(error_BOHW))
        square_BO = against.mean(anomaly_BOHW, anomaly_BOHW)
        norm_BO = np.sqrt(square_BO * against.anomaly_square_BO)
        covariance_BO = against.mean(anomaly_BOHW, against.anomaly_BOHW)
        for name, values_BO in zip(MOMENTS, (covariance_BO, square_BO, against.anomaly_square_BO), strict=True):
            self._parts[name].append(values_BO)
        undefined_BO = np.full(norm_BO.shape, np.nan)
        self._take("acc", np.divide(covariance_BO, norm_BO, out=undefined_BO, where=norm_BO > 0))

    @property
    def series(self) -> dict[str, Array]:
        """Values (N, O) of every forecast, in the order taken in; `rmse` holds <(f - o)²>."""
        return {name: np.concatenate(parts) for name, parts in self._parts.items()}

    def _take(self, metric: str, values_BO: Array) -> None:
        self._parts[metric].append(values_BO)
        defined = np.isfinite(values_BO)
        self._sums[metric] += np.where(defined, values_BO, 0.0).sum(axis=0)
        self._counts[metric] += defined.sum(axis=0)

    def __iadd__(self, other: "ScoreSums") -> "ScoreSums":
        for metric in METRICS:
            self._sums[metric] += other._sums[metric]
            self._counts[metric] += other._counts[metric]
        for name, parts in other._parts.items():
            self._parts[name] += parts
        return self

    def scores(self) -> dict[str, dict[str, float | None]]:
        """Variable -> metric -> value in the variable's units (ACC: 1); None where no forecast defines it."""
        table: dict[str, dict[str, float | None]] = {name: {} for name in self._variables}
        for metric in METRICS:
            for name, total, count in zip(self._variables, self._sums[metric], self._counts[metric], strict=True):
                mean = float(total / count) if count else None
                table[name][metric] = mean**0.5 if mean is not None and metric == "rmse" else mean
        return table


def units(metric: str, variable: str) -> str:
    """Units of a metric of a registry variable."""
    return "1" if metric == "acc" else lookup(variable).units
