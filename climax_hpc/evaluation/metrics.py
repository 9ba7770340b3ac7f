"""Scores as streaming sums over forecasts: exact over the whole test set, whatever the batches (WeatherBench 2).

With w the area weight of a cell, <·> its weighted mean over the valid cells of one forecast, f forecast, o truth and
c the climatology of the valid time, all in physical units:

    RMSE = sqrt(mean over forecasts of <(f - o)²>)      MAE = mean of <|f - o|>      bias = mean of <f - o>
    ACC  = mean over forecasts of <(f - c)(o - c)> / sqrt(<(f - c)²> <(o - c)²>)      (uncentred)

The sums over the cells are one operator, `kernels/verification_sums/op.py`.

Dimensions: B forecasts · O variables · H, W grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from climax_hpc.fields.variables import lookup
from climax_hpc.kernels.verification_sums.op import verification_sums

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
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Truth, NaN where not valid, climatology and weights, as `verification_sums` takes them."""
        counted_BOHW = np.where(self.valid_BOHW, self.truth_BOHW, np.nan)
        return tensor(counted_BOHW), tensor(self.climatology_BOHW), tensor(self.weight_H)

    def select(self, places: Sequence[int]) -> "Truth":
        """The same for some of the variables."""
        if list(places) == list(range(self.truth_BOHW.shape[1])):
            return self
        fields = {
            f"{name}_BOHW": getattr(self, f"{name}_BOHW")[:, list(places)] for name in ("truth", "climatology", "valid")
        }
        return Truth(**fields, weight_H=self.weight_H)


def tensor(array: Array) -> Tensor:
    """The array as a float64 tensor; copied only where it is read-only or strided."""
    return torch.from_numpy(np.require(array, np.float64, ["C", "W"]))


class ScoreSums:
    """Sums over the forecasts of one model at one lead time; sums of parts of a test set add up."""

    def __init__(self, variables: Sequence[str]) -> None:
        self._variables = tuple(variables)
        self._sums = {metric: np.zeros(len(self._variables)) for metric in METRICS}
        self._counts = {metric: np.zeros(len(self._variables), np.int64) for metric in METRICS}
        self._parts: dict[str, list[Array]] = {name: [] for name in (*METRICS, *MOMENTS)}

    def add(self, forecast_BOHW: Array, against: Truth) -> None:
        """Take in a batch of forecasts in physical units; cells that are not valid in `against` may hold anything."""
        sums = verification_sums(tensor(forecast_BOHW), *against.tensors)
        area_BO, error_BO, magnitude_BO, square_BO, forecast_BO, truth_BO, product_BO = (
            np.asarray(total_BO) for total_BO in sums
        )
        self._take("rmse", _ratio(square_BO, area_BO))
        self._take("mae", _ratio(magnitude_BO, area_BO))
        self._take("bias", _ratio(error_BO, area_BO))
        self._take("acc", _ratio(product_BO, np.sqrt(forecast_BO * truth_BO)))
        for name, total_BO in zip(MOMENTS, (product_BO, forecast_BO, truth_BO), strict=True):
            self._parts[name].append(_ratio(total_BO, area_BO))

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


def _ratio(numerator_BO: Array, denominator_BO: Array) -> Array:
    """Quotient; NaN where the denominator is 0: no valid cell, or no anomaly."""
    undefined_BO = np.full(numerator_BO.shape, np.nan)
    return np.divide(numerator_BO, denominator_BO, out=undefined_BO, where=denominator_BO > 0)


def units(metric: str, variable: str) -> str:
    """Units of a metric of a registry variable."""
    return "1" if metric == "acc" else lookup(variable).units
