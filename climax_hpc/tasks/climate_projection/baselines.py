"""Baselines of climate projections: the mean of the training years, and pattern scaling.

To add a baseline, add a class (`YearlyModel`) and an entry to `BASELINES`.

Dimensions: N years · O variables · H, W grid.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from climax_hpc.data.packed_source import PackedSource
from climax_hpc.errors import UserError
from climax_hpc.fields.grid import latitude_weights
from climax_hpc.tasks.climate_projection.yearly_data import all_fields, check_holds, fields

Array = NDArray[np.float64]

_TEMPERATURE, _EMISSIONS = "2m_temperature", "cumulative_co2_emissions"


class YearlyModel(Protocol):
    """A projection of single years of a source: baselines, and `model.ProjectionModel`."""

    @property
    def variables(self) -> tuple[str, ...]:
        """Registry names of the O variables."""
        ...

    def project(self, source: PackedSource, years: Sequence[int]) -> Array:
        """Fields (N, O, H, W) of these time indices, in physical units."""
        ...


class TrainingMean:
    """Projects the mean of the training years, independent of the forcing."""

    def __init__(self, sources: Sequence[PackedSource], variables: Sequence[str], period: tuple[str, str]) -> None:
        """Average over all years of these sources with equal weight; missing values are left out."""
        self.variables = tuple(variables)
        count, total = np.zeros(1), np.zeros(1)
        for field_OHW in all_fields(sources, variables, period):
            count = count + np.isfinite(field_OHW)
            total = total + np.nan_to_num(field_OHW)
        self._mean_OHW = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)

    def project(self, source: PackedSource, years: Sequence[int]) -> Array:
        """Fields (N, O, H, W), the same every year."""
        return np.repeat(self._mean_OHW[None], len(years), axis=0)


class PatternScaling:
    """Two least-squares lines (Santer et al. 1990; compared with ClimaX by Lütjens et al. 2024, arXiv 2408.05288).

    With E the cumulative CO2 emissions and T the global mean temperature of the training years:
        T^ = a + b E        y_ij = c_ij + d_ij T, fitted on the true T
    and a projection is c_ij + d_ij (a + b E): it does not see aerosols and methane.
    """

    def __init__(self, sources: Sequence[PackedSource], variables: Sequence[str], period: tuple[str, str]) -> None:
        """Fit on these sources.

        Raises:
            UserError: a source without temperature or emissions, or emissions that never change.
        """
        self.variables = tuple(variables)
        for source in sources:
            check_holds(source, [_TEMPERATURE, _EMISSIONS], "which pattern scaling needs")
        weight_H = latitude_weights(sources[0].grid, "cos")
        names = [_EMISSIONS, _TEMPERATURE, *variables]
        rows = []
        for field in all_fields(sources, names, period):
            rows.append(((field[:2].mean(-1) * weight_H).mean(-1), field[2:]))
        emitted_N, mean_N = np.stack([pair for pair, _ in rows], axis=1)
        if np.ptp(emitted_N) == 0 or np.ptp(mean_N) == 0:
            raise UserError(
                "pattern scaling: emissions or temperature of the training years never change; add scenarios"
            )
        y_NOHW = np.stack([field for _, field in rows])
        self._a, self._b = _line(emitted_N, mean_N)
        self._c_OHW, self._d_OHW = _line(mean_N, y_NOHW)

    def project(self, source: PackedSource, years: Sequence[int]) -> Array:
        """Fields (N, O, H, W), from the emissions."""
        emitted_N = np.array([fields(source, [_EMISSIONS], t).mean() for t in years])
        mean_N111 = (self._a + self._b * emitted_N)[:, None, None, None]
        return np.asarray(self._c_OHW + self._d_OHW * mean_N111)


def _line(x_N: Array, y_N: Array) -> tuple[Array, Array]:
    """Intercept and slope of the least-squares line of y (N, …) on x (N,)."""
    x_centred_N = x_N - x_N.mean()
    slope = np.tensordot(x_centred_N, y_N, axes=1) / (x_centred_N**2).sum()
    return np.asarray(y_N.mean(axis=0) - slope * x_N.mean()), np.asarray(slope)


@dataclass(frozen=True, kw_only=True)
class ProjectionBaseline:
    """An entry of `BASELINES`."""

    description: str
    """What it projects, as the report says it."""
    fit: Callable[[Sequence[PackedSource], Sequence[str], tuple[str, str]], YearlyModel]
    """Training scenarios, variables and training period -> baseline."""


BASELINES = {
    "climatology": ProjectionBaseline(
        description="mean of every cell over all training years of all training scenarios", fit=TrainingMean
    ),
    "pattern scaling": ProjectionBaseline(
        description="every cell linear in the global mean temperature, that linear in the cumulative CO2 emissions",
        fit=PatternScaling,
    ),
}
"""Label -> baseline, in the order of tables."""
