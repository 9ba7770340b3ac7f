"""Metrics of the distribution in single cells, for fields that are not paired in time.

Each is computed per cell and then averaged by area. Two runs that are not paired in time can agree in all of these and
on no single day. To add a metric, add an entry to `DISTRIBUTION_METRICS`.

Dimensions: N, M times of the two samples · O variables · K cells · H, W fine grid · Q quantiles.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from climax_hpc.evaluation.metrics import Array, Metric

_QUANTILES = {0.05: "5 % quantile", 0.5: "median", 0.95: "95 % quantile"}
_LEVELS = (np.arange(100) + 0.5) / 100  # of the Wasserstein distance
_BINS = 20  # of the histograms, over the range of both samples in the cell
UNPAIRED_NOTE = (
    "not paired in time: a free-running model has its own weather, so only distributions are compared; RMSE and "
    "correlation between such runs mean nothing"
)


@dataclass(frozen=True, kw_only=True)
class CellSamples:
    """Values of one variable in the same cells, of the fields and of the truth; NaN where missing."""

    fine_NK: Array
    truth_MK: Array


def _mean_bias(cells: CellSamples) -> Array:
    return np.asarray(np.nanmean(cells.fine_NK, axis=0) - np.nanmean(cells.truth_MK, axis=0))


def _std_ratio(cells: CellSamples) -> Array:
    return np.asarray(np.nanstd(cells.fine_NK, axis=0) / np.maximum(np.nanstd(cells.truth_MK, axis=0), 1e-30))


def _quantiles(values_NK: Array, levels_Q: Array) -> Array:
    """Quantiles (Q, K), NaN left out: all cells at once where nothing is missing, which `nanquantile` never does."""
    found_QK = np.empty((len(levels_Q), values_NK.shape[1]))
    gaps_K = np.isnan(values_NK).any(axis=0)
    found_QK[:, ~gaps_K] = np.quantile(values_NK[:, ~gaps_K], levels_Q, axis=0)
    found_QK[:, gaps_K] = np.nanquantile(values_NK[:, gaps_K], levels_Q, axis=0)
    return found_QK


def _wasserstein(cells: CellSamples) -> Array:
    fine_QK, truth_QK = (_quantiles(values, _LEVELS) for values in (cells.fine_NK, cells.truth_MK))
    return np.asarray(np.abs(fine_QK - truth_QK).mean(axis=0))


def _perkins(cells: CellSamples) -> Array:
    return np.array([_overlap(fine, truth) for fine, truth in zip(cells.fine_NK.T, cells.truth_MK.T, strict=True)])


def _overlap(fine: Array, truth: Array) -> float:
    """Share of the two histograms that lies under both."""
    fine, truth = fine[np.isfinite(fine)], truth[np.isfinite(truth)]
    edges = np.linspace(min(fine.min(), truth.min()), max(fine.max(), truth.max()) + 1e-30, _BINS + 1)
    a, b = (np.histogram(values, edges)[0] / len(values) for values in (fine, truth))
    return float(np.minimum(a, b).sum())


def _quantile_bias(quantile: float, title: str) -> Metric[CellSamples]:
    def bias(cells: CellSamples) -> Array:
        levels = np.array([quantile])  # an array of float64: a number would be interpolated in the type of the samples
        fine_K, truth_K = (_quantiles(values, levels)[0] for values in (cells.fine_NK, cells.truth_MK))
        return np.asarray(fine_K - truth_K)

    return Metric(
        name=f"q{100 * quantile:02.0f}_bias",
        title=f"bias of the {title}",
        compute=bias,
        better=None,
        optimum=0,
        description=f"the {title} minus that of the truth",
    )


_TABLE: tuple[Metric[CellSamples], ...] = (
    Metric(
        name="mean_bias",
        title="bias of the mean",
        compute=_mean_bias,
        better=None,
        optimum=0,
        description="the mean minus that of the truth",
    ),
    Metric(
        name="std_ratio",
        title="ratio of standard deviations",
        compute=_std_ratio,
        better=None,
        optimum=1,
        description="the standard deviation over that of the truth",
        dimensionless=True,
    ),
    *(_quantile_bias(quantile, title) for quantile, title in _QUANTILES.items()),
    Metric(
        name="wasserstein",
        title="Wasserstein distance",
        compute=_wasserstein,
        better="lower",
        optimum=0,
        description="the mean distance of equal quantiles",
    ),
    Metric(
        name="perkins",
        title="Perkins skill score",
        compute=_perkins,
        better="higher",
        optimum=1,
        description="the overlap of the two histograms (Perkins et al. 2007)",
        dimensionless=True,
    ),
)
DISTRIBUTION_METRICS: dict[str, Metric[CellSamples]] = {metric.name: metric for metric in _TABLE}
"""Name -> metric, in the order of tables."""


def compare_distributions(
    fine_NOHW: Array, truth_MOHW: Array, weight_H: Array, variables: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Variable -> metric -> mean over the cells that have at least two values in both samples."""
    found = {}
    for place, name in enumerate(variables):
        fine_NHW, truth_MHW = fine_NOHW[:, place], truth_MOHW[:, place]
        valid_HW = (np.isfinite(fine_NHW).sum(axis=0) > 1) & (np.isfinite(truth_MHW).sum(axis=0) > 1)
        weight_K = np.broadcast_to(weight_H[:, None], valid_HW.shape)[valid_HW]
        share_K = weight_K / weight_K.sum()
        cells = CellSamples(fine_NK=fine_NHW[:, valid_HW], truth_MK=truth_MHW[:, valid_HW])
        found[name] = {metric.name: float(metric.compute(cells) @ share_K) for metric in DISTRIBUTION_METRICS.values()}
    return found
