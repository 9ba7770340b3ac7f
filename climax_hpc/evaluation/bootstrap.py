"""Confidence intervals by the moving-block bootstrap over initialisations, and paired comparisons of two models.

Forecasts that start hours apart see the same weather, so their errors are not independent: whole blocks of successive
starts are drawn with replacement (Künsch 1989), never across a gap, and every metric is computed anew from each
draw. Two models are compared on the same draws, which removes the part of the spread that both share.
Dimensions: N forecasts of one lead time, by start · R resamples · O variables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from climax_hpc.evaluation.metrics import RMSE, Array, ForecastMeans, Metric, as_number, compute_metrics

_BLOCK_SEED = 20_301_010_343


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """Settings of the intervals."""

    resamples: int
    """Draws; 0 for none."""
    confidence: float
    """Fraction of the draws inside an interval."""
    block_steps: int | None = None
    """Successive starts of a block; after Wilks (1997) from the autocorrelation of the errors where None."""

    @property
    def percentiles(self) -> tuple[float, float]:
        """Ends of an interval, as percentiles of the draws."""
        tail = 50 * (1 - self.confidence)
        return tail, 100 - tail


def runs_of(starts: Sequence[int]) -> list[int]:
    """Lengths of the runs of successive start times."""
    breaks = np.flatnonzero(np.diff(np.asarray(starts)) != 1) + 1
    return [len(part) for part in np.split(np.arange(len(starts)), breaks)]


def wilks_block(values_N: Array, runs: Sequence[int]) -> int:
    """Block length of a series: L = (n - L + 1)^((2/3)(1 - n'/n)), n'/n = (1 - r)/(1 + r) for lag-1 correlation r.

    Wilks, 1997, J. Climate 10, 65-82, for a first-order autoregression; never longer than the longest run without a
    gap.
    """
    n = int(np.isfinite(values_N).sum())
    r = _lag_one(values_N, runs)
    exponent = 2 / 3 * (1 - (1 - r) / (1 + r))
    length = 1.0
    for _ in range(200):  # a contraction: converges in a few steps
        length = max(1.0, (n - length + 1) ** exponent)
    return max(1, min(round(length), max(runs)))


def _lag_one(values_N: Array, runs: Sequence[int]) -> float:
    """Lag-1 autocorrelation within the runs, between 0 and 0.999."""
    centred = values_N - np.nanmean(values_N)
    inside = np.ones(len(values_N) - 1, bool)
    inside[np.cumsum(runs)[:-1] - 1] = False
    products = (centred[1:] * centred[:-1])[inside]
    variance = np.nanmean(centred**2)
    if not variance > 0 or not np.isfinite(products).any():
        return 0.0
    return float(np.clip(np.nanmean(products) / variance, 0.0, 0.999))


def draw_blocks(runs: Sequence[int], block: int, resamples: int, seed: int = _BLOCK_SEED) -> Array:
    """How often each draw holds each start (R, N): blocks of successive starts within one run, as many as cover N."""
    starts = np.concatenate([np.arange(n) + first for first, n in zip(np.cumsum([0, *runs[:-1]]), runs, strict=True)])
    ends = np.repeat(np.cumsum(runs), runs)
    lengths = np.minimum(block, np.asarray(runs))
    # Blocks that fit into their run; a run shorter than a block is one block.
    fits = starts + np.repeat(lengths, runs) <= ends
    first, size = starts[fits], np.repeat(lengths, runs)[fits]
    count = int(np.ceil(len(starts) / size.mean()))
    chosen_RK = np.random.default_rng(seed).integers(len(first), size=(resamples, count))
    steps_RN = np.zeros((resamples, len(starts) + 1))
    rows = np.arange(resamples)[:, None]
    np.add.at(steps_RN, (rows, first[chosen_RK]), 1.0)
    np.add.at(steps_RN, (rows, first[chosen_RK] + size[chosen_RK]), -1.0)
    return np.cumsum(steps_RN, axis=1)[:, :-1]


class LeadIntervals:
    """Metrics of all models at one lead time, their intervals, and paired comparisons, on the same draws."""

    def __init__(
        self,
        series: Mapping[str, Mapping[str, Array]],
        starts: Sequence[int],
        bootstrap: Bootstrap,
        metrics: Sequence[Metric[ForecastMeans]],
    ) -> None:
        """`series`: label -> `metrics.SERIES` name -> (N, O); `starts`: time index (N,) of every forecast, ascending.

        `metrics` holds the RMSE, which comparisons are made by.
        """
        runs = runs_of(starts)
        self.block_steps = bootstrap.block_steps or max(
            wilks_block(np.asarray(column), runs)
            for one in series.values()
            for column in one["square_error"].T
            if np.isfinite(column).any()
        )
        weight_RN = draw_blocks(runs, self.block_steps, bootstrap.resamples)
        self._percentiles = bootstrap.percentiles
        self._draws = {label: compute_metrics(metrics, one, weight_RN) for label, one in series.items()}
        whole = np.ones((1, len(starts)))
        self._values = {label: compute_metrics(metrics, one, whole) for label, one in series.items()}

    def value(self, label: str, metric: str, place: int) -> float | None:
        """The metric over all forecasts, for the variable at `place`; None where undefined."""
        return as_number(self._values[label][metric][0, place])

    def interval(self, label: str, metric: str, place: int) -> list[float] | None:
        """Its interval; None where undefined."""
        return between(self._draws[label][metric][:, place], self._percentiles)

    def difference(self, label: str, place: int, reference: str, reference_place: int) -> dict[str, object]:
        """RMSE of a model minus that of a reference: value, interval, and relative to the reference's RMSE."""
        name = RMSE.name
        a, b = (self._values[x][name][0, p] for x, p in ((label, place), (reference, reference_place)))
        draws_R = self._draws[label][name][:, place] - self._draws[reference][name][:, reference_place]
        return {
            "rmse": as_number(a - b),
            "interval": between(draws_R, self._percentiles),
            "relative": as_number((a - b) / b if b else np.nan),
        }


def between(draws_R: Array, percentiles: tuple[float, float]) -> list[float] | None:
    """The two percentiles of the defined draws; None where there is none."""
    draws_R = draws_R[np.isfinite(draws_R)]
    return [float(x) for x in np.percentile(draws_R, percentiles)] if len(draws_R) else None
