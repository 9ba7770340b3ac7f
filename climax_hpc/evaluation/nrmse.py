"""Metrics of climate projections: ClimateBench's normalised root mean square errors.

Watson-Parris et al. 2022 (JAMES 14, e2021MS002954), section 3.3, over the projected years n = 1 … N (2080-2100), with x
the projection, y the mean of the target's ensemble members, and <x> = sum_ij cos(lat_i) x_ij / sum_ij cos(lat_i):

    NRMSE_spatial = sqrt( < (mean_n x - mean_n y)^2 > ) / |mean_n <y>|
    NRMSE_global  = sqrt( mean_n (<x> - <y>)^2 ) / |mean_n <y>|
    NRMSE_total   = NRMSE_spatial + 5 NRMSE_global

ClimateBench's targets are departures from the pre-industrial control, so that the divisor is the mean change; of
absolute fields the numbers mean something else. To add a metric, add an entry to `PROJECTION_METRICS`.
Dimensions: N years · R resamples · P = H·W cells · H, W grid.
"""

from functools import cached_property

import numpy as np

from climax_hpc.evaluation.metrics import Array, Metric

_GLOBAL_WEIGHT = 5.0
_CHUNK = 64  # resamples whose mean maps are held at once


class DrawnYears:
    """A projection and its truth in draws of the years."""

    def __init__(self, x_NHW: Array, y_NHW: Array, weight_H: Array, draws_RN: Array) -> None:
        """Draw r holds year n `draws_RN[r, n]` times; `weight_H` in any unit.

        Raises:
            ValueError: a missing value; the metrics are of whole fields.
        """
        if not (np.isfinite(x_NHW).all() and np.isfinite(y_NHW).all()):
            raise ValueError("projection or truth has missing values")
        self._share_RN = draws_RN / draws_RN.sum(axis=1, keepdims=True)
        weight_H1 = (weight_H / (weight_H.sum() * x_NHW.shape[2]))[:, None]
        self._weight_HW, self._error_NHW = np.broadcast_to(weight_H1, x_NHW.shape[1:]), x_NHW - y_NHW
        mean_N = np.einsum("nhw,hw->n", y_NHW, self._weight_HW)
        self._change_R: Array = np.abs(self._share_RN @ mean_N)

    @cached_property
    def spatial_R(self) -> Array:
        """Root mean square error of the mean map over the mean change; infinite where there is no change."""
        square_R, error_NP = np.empty(len(self._share_RN)), self._error_NHW.reshape(len(self._error_NHW), -1)
        for first in range(0, len(square_R), _CHUNK):
            some = slice(first, first + _CHUNK)
            map_RP = self._share_RN[some] @ error_NP
            square_R[some] = map_RP**2 @ self._weight_HW.reshape(-1)
        return self._over_change(np.sqrt(square_R))

    @cached_property
    def global_R(self) -> Array:
        """Root mean square error of the global means of the years over the mean change."""
        error_N = np.einsum("nhw,hw->n", self._error_NHW, self._weight_HW)
        return self._over_change(np.sqrt(self._share_RN @ error_N**2))

    def _over_change(self, error_R: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return error_R / self._change_R


_TABLE: tuple[Metric[DrawnYears], ...] = (
    Metric(
        name="spatial",
        title="spatial",
        compute=lambda years: years.spatial_R,
        better="lower",
        optimum=0,
        description="of the mean map",
        dimensionless=True,
    ),
    Metric(
        name="global",
        title="global",
        compute=lambda years: years.global_R,
        better="lower",
        optimum=0,
        description="of the global means of the years",
        dimensionless=True,
    ),
    Metric(
        name="total",
        title="total",
        compute=lambda years: years.spatial_R + _GLOBAL_WEIGHT * years.global_R,
        better="lower",
        optimum=0,
        description=f"spatial + {_GLOBAL_WEIGHT:g} · global",
        dimensionless=True,
    ),
)
PROJECTION_METRICS: dict[str, Metric[DrawnYears]] = {metric.name: metric for metric in _TABLE}
"""Name -> metric, in the order of tables."""
TOTAL = PROJECTION_METRICS["total"]
"""What models are ranked by."""


def nrmse(x_NHW: Array, y_NHW: Array, weight_H: Array) -> dict[str, float]:
    """Metric -> value [1] of a projection against the truth; `weight_H` in any unit."""
    one_1N = np.ones((1, len(y_NHW)))
    return {name: float(values_R[0]) for name, values_R in resampled_nrmse(x_NHW, y_NHW, weight_H, one_1N).items()}


def resampled_nrmse(x_NHW: Array, y_NHW: Array, weight_H: Array, draws_RN: Array) -> dict[str, Array]:
    """Metric -> values (R,) of draws that hold year n `draws_RN[r, n]` times.

    Raises:
        ValueError: a missing value; the metrics are of whole fields.
    """
    years = DrawnYears(x_NHW, y_NHW, weight_H, draws_RN)
    return {metric.name: metric.compute(years) for metric in PROJECTION_METRICS.values()}
