"""Scores as streaming sums over forecasts: exact over the whole test set, whatever the batches (WeatherBench 2).

With w the area weight of a cell, <·> its weighted mean over the valid cells of one forecast, f forecast, o truth and
c the climatology of the valid time, all in physical units:

    RMSE = sqrt(mean over forecasts of <(f - o)²>)      MAE = mean of <|f - o|>      bias = mean of <f - o>
    ACC  = mean over forecasts of <(f - c)(o - c)> / sqrt(<(f - c)²> <(o - c)²>)      (uncentred)

Dimensions: B forecasts · O variables · H, W grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from climax_hpc.variables import lookup

Array = NDArray[np.float64]

METRICS = ("rmse", "mae", "bias", "acc")


def spatial_mean(field_BOHW: Array, valid_BOHW: NDArray[np.bool_], weight_H: Array) -> Array:
    """Weighted mean (B, O) over the valid cells; NaN where a forecast has none."""
    total_BO = np.where(valid_BOHW, field_BOHW, 0.0).sum(axis=-1) @ weight_H
    area_BO = valid_BOHW.sum(axis=-1) @ weight_H
    return np.divide(total_BO, area_BO, out=np.full(area_BO.shape, np.nan), where=area_BO > 0)


def anomaly_correlation(forecast: Array, truth: Array, valid: NDArray[np.bool_], weight_H: Array) -> Array:
    """Uncentred correlation (B, O) of two anomaly fields (B, O, H, W); NaN where either is zero or nothing is valid."""
    covariance, forecast_square, truth_square = (
        spatial_mean(product, valid, weight_H) for product in (forecast * truth, forecast**2, truth**2)
    )
    norm_BO = np.sqrt(forecast_square * truth_square)
    return np.divide(covariance, norm_BO, out=np.full(norm_BO.shape, np.nan), where=norm_BO > 0)


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What a batch of forecasts is scored against: fields (B, O, H, W) in physical units, and the cells that count."""

    truth_BOHW: Array
    climatology_BOHW: Array
    valid_BOHW: NDArray[np.bool_]

    def select(self, places: Sequence[int]) -> "Truth":
        """The same for some of the variables."""
        chosen = list(places)
        return Truth(
            truth_BOHW=self.truth_BOHW[:, chosen],
            climatology_BOHW=self.climatology_BOHW[:, chosen],
            valid_BOHW=self.valid_BOHW[:, chosen],
        )


class ScoreSums:
    """Sums over the forecasts of one model at one lead time; sums of parts of a test set add up."""

    def __init__(self, variables: Sequence[str]) -> None:
        self._variables = tuple(variables)
        self._sums = {metric: np.zeros(len(self._variables)) for metric in METRICS}
        self._counts = {metric: np.zeros(len(self._variables), np.int64) for metric in METRICS}

    def add(self, forecast_BOHW: Array, against: Truth, weight_H: Array) -> None:
        """Take in a batch of forecasts in physical units; cells that are not valid in `against` may hold anything."""
        valid = against.valid_BOHW
        # Zero outside the valid cells, so that NaN there cannot reach a product.
        error, forecast_anomaly, truth_anomaly = (
            np.where(valid, a - b, 0.0)
            for a, b in (
                (forecast_BOHW, against.truth_BOHW),
                (forecast_BOHW, against.climatology_BOHW),
                (against.truth_BOHW, against.climatology_BOHW),
            )
        )
        self._take("rmse", spatial_mean(error**2, valid, weight_H))
        self._take("mae", spatial_mean(np.abs(error), valid, weight_H))
        self._take("bias", spatial_mean(error, valid, weight_H))
        self._take("acc", anomaly_correlation(forecast_anomaly, truth_anomaly, valid, weight_H))

    def _take(self, metric: str, values_BO: Array) -> None:
        defined = np.isfinite(values_BO)
        self._sums[metric] += np.where(defined, values_BO, 0.0).sum(axis=0)
        self._counts[metric] += defined.sum(axis=0)

    def __iadd__(self, other: "ScoreSums") -> "ScoreSums":
        for metric in METRICS:
            self._sums[metric] += other._sums[metric]
            self._counts[metric] += other._counts[metric]
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


def relative_error(scores: Mapping[str, float | None], reference: Mapping[str, float | None]) -> float | None:
    """RMSE relative to a reference's, minus 1 (negative is better); None where either is undefined or zero."""
    mine, other = scores["rmse"], reference["rmse"]
    return mine / other - 1 if mine is not None and other else None
