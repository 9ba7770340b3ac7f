"""Distributions of single cells, of downscaled fields and of the truth: all that unpaired fields can be judged by.

Per cell, then averaged by area: bias of the mean and of quantiles, ratio of the standard deviations, the Wasserstein
distance (mean distance of equal quantiles), and the Perkins skill score, the overlap of the histograms (Perkins et al.
2007). Two runs that are not paired in time can agree in all of these and in no single day.
Dimensions: N, M times of the two samples · O variables · H, W fine grid · Q quantiles.
"""

from collections.abc import Sequence

import numpy as np

from climax_hpc.evaluation.metrics import Array

QUANTILES = (0.05, 0.5, 0.95)
_LEVELS = (np.arange(100) + 0.5) / 100  # of the Wasserstein distance
_BINS = 20  # of the histograms, over the range of both samples in the cell
UNPAIRED_NOTE = (
    "not paired in time: a free-running model has its own weather, so these are scores of distributions alone; RMSE "
    "and correlation between such runs mean nothing"
)


def compare(
    fine_NOHW: Array, truth_MOHW: Array, weight_H: Array, variables: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Variable -> score -> mean over the cells that have at least two values in both samples."""
    found = {}
    for place, name in enumerate(variables):
        fine, truth = fine_NOHW[:, place], truth_MOHW[:, place]
        valid_HW = (np.isfinite(fine).sum(axis=0) > 1) & (np.isfinite(truth).sum(axis=0) > 1)
        weight = np.broadcast_to(weight_H[:, None], valid_HW.shape)[valid_HW]
        found[name] = _cells(fine[:, valid_HW], truth[:, valid_HW], weight / weight.sum())
    return found


def _cells(fine_NK: Array, truth_MK: Array, weight_K: Array) -> dict[str, float]:
    fine_q, truth_q = (np.nanquantile(a, QUANTILES, axis=0) for a in (fine_NK, truth_MK))
    spread = [np.nanstd(a, axis=0) for a in (fine_NK, truth_MK)]
    scores = {
        "mean_bias": np.nanmean(fine_NK, axis=0) - np.nanmean(truth_MK, axis=0),
        "std_ratio": spread[0] / np.maximum(spread[1], 1e-30),
        **{f"q{100 * q:02.0f}_bias": fine_q[i] - truth_q[i] for i, q in enumerate(QUANTILES)},
        "wasserstein": np.abs(
            np.nanquantile(fine_NK, _LEVELS, axis=0) - np.nanquantile(truth_MK, _LEVELS, axis=0)
        ).mean(axis=0),
        "perkins": np.array([_overlap(fine_NK[:, k], truth_MK[:, k]) for k in range(len(weight_K))]),
    }
    return {name: float(values @ weight_K) for name, values in scores.items()}


def _overlap(fine: Array, truth: Array) -> float:
    """Share of the two histograms that lies under both."""
    fine, truth = fine[np.isfinite(fine)], truth[np.isfinite(truth)]
    edges = np.linspace(min(fine.min(), truth.min()), max(fine.max(), truth.max()) + 1e-30, _BINS + 1)
    a, b = (np.histogram(values, edges)[0] / len(values) for values in (fine, truth))
    return float(np.minimum(a, b).sum())
