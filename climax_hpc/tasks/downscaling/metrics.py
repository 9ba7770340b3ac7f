"""Scores of downscaled fields against their truth: streaming, exact over the whole test period, with intervals.

With w the area weight of a cell, <·> its weighted mean over the valid cells of one time, f downscaled, o truth, and an
overbar the mean over times:

    RMSE = sqrt(mean of <(f - o)²>)    MAE = mean of <|f - o|>    bias = mean of <f - o>
    Pearson = cov(f, o) / sqrt(var(f)·var(o)) over all cells and times together

as ClimaX, table 5 (there means of batches). Dimensions: B times · O variables · H, W fine grid.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from climax_hpc.evaluation.metrics import Array, tensor
from climax_hpc.kernels.verification_sums.op import verification_sums

METRICS = ("rmse", "mae", "bias", "pearson")


class PairScores:
    """Means over the cells of every time of one contestant; what `climax_hpc.evaluation.bootstrap.statistics` takes."""

    def __init__(self, variables: Sequence[str], offset_O: Array) -> None:
        """`offset_O`: near the mean of each variable; moments are taken about it, so that none cancels."""
        self.variables, self._offset_O11 = tuple(variables), offset_O[:, None, None]
        self._parts: dict[str, list[Array]] = {}

    def add(self, fine_BOHW: Array, truth_BOHW: Array, valid_BOHW: NDArray[np.bool_], weight_H: Array) -> None:
        """Take in some times, in order; cells that are not valid may hold anything."""
        counted = np.where(valid_BOHW, truth_BOHW, np.nan)
        offset = np.broadcast_to(self._offset_O11, counted.shape)
        about_BOHW = tensor(np.where(valid_BOHW, offset, np.nan))
        sums = verification_sums(tensor(fine_BOHW), tensor(counted), about_BOHW, tensor(weight_H))
        area, error, magnitude, square, fine_square, truth_square, product = (np.asarray(total) for total in sums)
        of_truth = (np.where(valid_BOHW, truth_BOHW - offset, 0.0) * weight_H[:, None]).sum(axis=(2, 3))
        named = {
            "rmse": square,
            "mae": magnitude,
            "bias": error,
            "product": product,
            "forecast_square": fine_square,
            "truth_square": truth_square,
            "truth_mean": of_truth,
        }
        for name, total_BO in named.items():
            undefined = np.full(total_BO.shape, np.nan)
            mean_BO = np.divide(total_BO, area, out=undefined, where=area > 0)
            self._parts.setdefault(name, []).append(mean_BO)

    @property
    def series(self) -> dict[str, Array]:
        """Values (N, O) of every time, in the order taken in; `rmse` holds <(f - o)²>."""
        series = {name: np.concatenate(parts) for name, parts in self._parts.items()}
        return series | {"acc": np.full(series["rmse"].shape, np.nan)}
