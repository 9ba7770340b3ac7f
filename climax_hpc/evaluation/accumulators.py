"""Sums over the forecasts of one model: exact over the whole test set, independent of the batches (WeatherBench 2).

The sums over the cells of each forecast are one operator, `kernels/verification_sums/op.py`; what is kept of a forecast
is `metrics.SERIES`. Sums of parts of a test set, for example of several processes, add up.

Dimensions: B forecasts of a batch · N all forecasts · O variables · H, W grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from climax_hpc.evaluation.metrics import SERIES, Array, as_number, compute_metrics, metrics_of, ratio
from climax_hpc.evaluation.spectra import SpectrumSums
from climax_hpc.fields.grid import Grid
from climax_hpc.fields.regions import Cells, cut, region_indices, region_of, whole_patches
from climax_hpc.kernels.verification_sums.op import verification_sums


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The truth of a batch of forecasts: fields (B, O, H, W) in physical units, and the cells that count."""

    truth_BOHW: Array
    climatology_BOHW: Array
    """Reference of the anomalies; one number per variable where a task has no climatology."""
    valid_BOHW: NDArray[np.bool_]
    weight_H: Array
    """Area weight of a cell in each row, in any unit."""

    @cached_property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Truth, NaN where not valid, climatology and weights, as `verification_sums` takes them."""
        counted_BOHW = np.where(self.valid_BOHW, self.truth_BOHW, np.nan)
        return as_tensor(counted_BOHW), as_tensor(self.climatology_BOHW), as_tensor(self.weight_H)

    @cached_property
    def anomaly_BO(self) -> Array:
        """Weighted sum of truth minus climatology over the valid cells."""
        anomaly_BOHW = np.where(self.valid_BOHW, self.truth_BOHW - self.climatology_BOHW, 0.0)
        return np.asarray((anomaly_BOHW * self.weight_H[:, None]).sum(axis=(2, 3)))

    def select(self, places: Sequence[int]) -> "Truth":
        """The same for some of the variables."""
        if list(places) == list(range(self.truth_BOHW.shape[1])):
            return self
        fields = {
            f"{name}_BOHW": getattr(self, f"{name}_BOHW")[:, list(places)] for name in ("truth", "climatology", "valid")
        }
        return Truth(**fields, weight_H=self.weight_H)

    def within(self, cells: Cells) -> "Truth":
        """The same in a region."""
        return Truth(
            truth_BOHW=cut(self.truth_BOHW, cells),
            climatology_BOHW=cut(self.climatology_BOHW, cells),
            valid_BOHW=cut(self.valid_BOHW, cells),
            weight_H=self.weight_H[cells[0]],
        )


def as_tensor(array: Array) -> Tensor:
    """The array as a float64 tensor; copied only where it is read-only or strided."""
    return torch.from_numpy(np.require(array, np.float64, ["C", "W"]))


class ScoreSums:
    """The `metrics.SERIES` of every forecast of one model at one lead time, from which metrics are computed."""

    def __init__(self, variables: Sequence[str]) -> None:
        self.variables = tuple(variables)
        self._parts: dict[str, list[Array]] = {name: [] for name in SERIES}

    def add(self, forecast_BOHW: Array, against: Truth) -> None:
        """Add a batch of forecasts in physical units; cells that are not valid in `against` may hold anything."""
        sums = verification_sums(as_tensor(forecast_BOHW), *against.tensors)
        assert sums.forecast_square_BO is not None  # there is a climatology
        assert sums.truth_square_BO is not None
        assert sums.product_BO is not None
        totals = {
            "error": sums.error_BO,
            "absolute_error": sums.magnitude_BO,
            "square_error": sums.square_BO,
            "forecast_square": sums.forecast_square_BO,
            "truth_square": sums.truth_square_BO,
            "product": sums.product_BO,
            "truth_mean": against.anomaly_BO,
        }
        area_BO = np.asarray(sums.area_BO)
        for name, total_BO in totals.items():
            self._parts[name].append(ratio(np.asarray(total_BO), area_BO))

    @property
    def series(self) -> dict[str, Array]:
        """`metrics.SERIES` name -> values (N, O), in the order added."""
        return {name: np.concatenate(parts) for name, parts in self._parts.items()}

    @property
    def undefined(self) -> list[str]:
        """Variables of which no forecast has a valid cell."""
        square_NO = self.series["square_error"]
        return [name for name, column_N in zip(self.variables, square_NO.T, strict=True) if np.isnan(column_N).all()]

    def __iadd__(self, other: "ScoreSums") -> "ScoreSums":
        for name, parts in other._parts.items():
            self._parts[name] += parts
        return self

    def scores(self) -> dict[str, dict[str, float | None]]:
        """Variable -> metric of forecasts -> value over all forecasts; None where no forecast defines it."""
        series = self.series
        values = compute_metrics(metrics_of("forecast"), series, np.ones((1, len(series["error"]))))
        return {
            variable: {name: as_number(value_RO[0, place]) for name, value_RO in values.items()}
            for place, variable in enumerate(self.variables)
        }


def cells_of(grid: Grid, regions: Sequence[str], patch: int = 1) -> dict[str, Cells]:
    """Rows and columns of named regions, for either order of latitudes and across any meridian.

    `patch`: only patches of this size that lie in the region as a whole; 1 for every cell.

    Raises:
        UserError: no such region, one smaller than two cells, or without a whole patch.
    """
    return {name: whole_patches(region_indices(grid, region_of(name)), patch, name) for name in regions}


@dataclass(frozen=True, kw_only=True, eq=False)
class AccumulatorPlan:
    """What to sum in addition to the scores of the whole grid."""

    regions: Mapping[str, Cells]
    lat: Array
    weight_H: Array
    spectra: bool = False

    def start(self, variables: Sequence[str]) -> "Accumulator":
        """An empty accumulator."""
        return Accumulator(variables, self)


class Accumulator:
    """All sums of one model at one lead time: of the whole grid, of regions, and of spectra."""

    def __init__(self, variables: Sequence[str], plan: AccumulatorPlan) -> None:
        self.globe = ScoreSums(variables)
        self.regions = {name: ScoreSums(variables) for name in plan.regions}
        self.spectrum = SpectrumSums(variables, plan.lat, plan.weight_H) if plan.spectra else None
        self._cells = plan.regions

    def add(self, forecast_BOHW: Array, against: Truth) -> None:
        """Add a batch of forecasts in physical units."""
        self.globe.add(forecast_BOHW, against)
        for name, cells in self._cells.items():
            self.regions[name].add(cut(forecast_BOHW, cells), against.within(cells))
        if self.spectrum:
            self.spectrum.add(np.where(against.valid_BOHW, forecast_BOHW, np.nan))

    def __iadd__(self, other: "Accumulator") -> "Accumulator":
        self.globe += other.globe
        for name, sums in other.regions.items():
            self.regions[name] += sums
        if self.spectrum and other.spectrum:
            self.spectrum += other.spectrum
        return self
