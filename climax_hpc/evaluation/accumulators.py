"""Sums over the forecasts of one model: exact over the whole test set, independent of the batches (WeatherBench 2).

The sums over the cells of each forecast are one operator, `kernels/verification_sums/op.py`; what is kept of a forecast
is `metrics.SERIES`. Sums of parts of a test set, for example of several processes, add up.

Dimensions: B forecasts of a batch · N all forecasts · O variables · H, W grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from climax_hpc.evaluation.ensemble_sums import EnsembleSums
from climax_hpc.evaluation.metrics import SERIES, Array, as_number, compute_metrics, metrics_of, ratio
from climax_hpc.evaluation.readback import Readback
from climax_hpc.evaluation.spectra import SpectrumSums
from climax_hpc.fields.grid import Grid
from climax_hpc.fields.regions import Cells, region_indices, region_of, whole_patches
from climax_hpc.kernels.verification_sums.op import verification_sums
from climax_hpc.model.indices import index_tensor


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The truth of a batch of forecasts: fields (B, O, H, W) in physical units, and the cells that count.

    On the device and in the type of the forecasts: float64 on a CPU, float32 on a GPU.
    """

    truth_BOHW: Tensor
    climatology_BOHW: Tensor
    """Reference of the anomalies; one number per variable where a task has no climatology."""
    valid_BOHW: Tensor
    weight_H: Tensor
    """Area weight of a cell in each row, in any unit."""

    @classmethod
    def of(
        cls, *, truth_BOHW: Array, climatology_BOHW: Array, valid_BOHW: NDArray[np.bool_], weight_H: Array
    ) -> "Truth":
        """The truth in arrays, on the CPU."""
        return cls(
            truth_BOHW=as_tensor(truth_BOHW),
            climatology_BOHW=as_tensor(climatology_BOHW),
            valid_BOHW=torch.from_numpy(np.require(valid_BOHW, requirements=["C", "W"])),
            weight_H=as_tensor(weight_H),
        )

    @cached_property
    def counted_BOHW(self) -> Tensor:
        """The truth, NaN where not valid, as `verification_sums` takes it."""
        return torch.where(self.valid_BOHW, self.truth_BOHW, torch.nan)

    @cached_property
    def anomaly_BO(self) -> Tensor:
        """Weighted sum of truth minus climatology over the valid cells, in float64."""
        anomaly_BOHW = torch.where(self.valid_BOHW, self.truth_BOHW - self.climatology_BOHW, 0.0)
        weighted_BOHW = anomaly_BOHW * self.weight_H[:, None]
        if weighted_BOHW.device.type == "cpu":  # in NumPy's order, so that scores keep their bits
            return torch.from_numpy(np.asarray(weighted_BOHW.numpy().sum(axis=(2, 3))))
        return weighted_BOHW.sum(dim=(2, 3), dtype=torch.float64)

    def select(self, places: Sequence[int]) -> "Truth":
        """The same for some of the variables."""
        if list(places) == list(range(self.truth_BOHW.shape[1])):
            return self
        index_O = index_tensor(places, self.truth_BOHW.device)
        fields = {
            f"{name}_BOHW": getattr(self, f"{name}_BOHW").index_select(1, index_O)
            for name in ("truth", "climatology", "valid")
        }
        return Truth(**fields, weight_H=self.weight_H)

    def within(self, cells: Cells) -> "Truth":
        """The same in a region."""
        return Truth(
            truth_BOHW=cut_tensor(self.truth_BOHW, cells),
            climatology_BOHW=cut_tensor(self.climatology_BOHW, cells),
            valid_BOHW=cut_tensor(self.valid_BOHW, cells),
            weight_H=self.weight_H.index_select(0, index_tensor(cells[0].tolist(), self.weight_H.device)),
        )


def as_tensor(array: Array) -> Tensor:
    """The array as a float64 tensor; copied only where it is read-only or strided."""
    return torch.from_numpy(np.require(array, np.float64, ["C", "W"]))


def cut_tensor(fields: Tensor, cells: Cells) -> Tensor:
    """The cells (B, O, h, w) of a region out of fields (B, O, H, W), on their device."""
    rows, columns = (index_tensor(index.tolist(), fields.device) for index in cells)
    return fields.index_select(2, rows).index_select(3, columns)


class ScoreSums:
    """The `metrics.SERIES` of every forecast of one model at one lead time, from which metrics are computed."""

    def __init__(self, variables: Sequence[str]) -> None:
        self.variables = tuple(variables)
        self._parts: dict[str, list[Array]] = {name: [] for name in SERIES}

    def add(self, forecast_BOHW: Tensor, against: Truth, readback: Readback | None = None) -> None:
        """Add a batch of forecasts in physical units; cells that are not valid in `against` may hold anything.

        With a `readback`, the batch counts from when that is run.
        """
        own = readback or Readback()
        sums = verification_sums(forecast_BOHW, against.counted_BOHW, against.climatology_BOHW, against.weight_H)
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
        own.want(torch.stack([sums.area_BO, *totals.values()]), partial(self._keep, tuple(totals)))
        if readback is None:
            own.run()

    def _keep(self, names: Sequence[str], sums_SBO: Array) -> None:
        """Keep the means of a batch: area, then the sums of these names."""
        for name, total_BO in zip(names, sums_SBO[1:], strict=True):
            self._parts[name].append(ratio(total_BO, sums_SBO[0]))

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
        self.ensemble: EnsembleSums | None = None
        """Sums of an ensemble's members; None of deterministic forecasts."""
        self._cells = plan.regions

    def add(self, forecast_BOHW: Tensor, against: Truth, readback: Readback | None = None) -> None:
        """Add a batch of forecasts in physical units; with a `readback`, once that is run."""
        own = readback or Readback()
        self.globe.add(forecast_BOHW, against, own)
        for name, cells in self._cells.items():
            self.regions[name].add(cut_tensor(forecast_BOHW, cells), against.within(cells), own)
        if self.spectrum:
            self.spectrum.add(torch.where(against.valid_BOHW, forecast_BOHW, torch.nan), own)
        if readback is None:
            own.run()

    def __iadd__(self, other: "Accumulator") -> "Accumulator":
        self.globe += other.globe
        for name, sums in other.regions.items():
            self.regions[name] += sums
        if self.spectrum and other.spectrum:
            self.spectrum += other.spectrum
        if self.ensemble and other.ensemble:
            self.ensemble += other.ensemble
        return self
