"""Confidence intervals by the moving-block bootstrap over initialisations, and paired comparisons of two models.

Forecasts that start hours apart see the same weather, so their errors are not independent: whole blocks of successive
starts are drawn with replacement (Künsch 1989), never across a gap, and every statistic is computed anew from each
draw. Two models are compared on the same draws, which removes the part of the spread that both share.
Dimensions: N forecasts of one lead time, by start · R resamples · O variables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
STATISTICS = ("rmse", "mae", "bias", "acc", "rmse_climax", "acc_climax", "activity", "activity_truth")
_BLOCK_SEED = 20_301_010_343


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How intervals are made."""

    resamples: int
    """Draws; 0 for none."""
    confidence: float
    """Share of the draws inside an interval."""
    block_steps: int | None = None
    """Successive starts of a block; after Wilks (1997) from the autocorrelation of the errors where None."""


def statistics(series: Mapping[str, Array], weight_RN: Array) -> dict[str, Array]:
    """Every statistic (R, O) of draws that hold forecast n `weight_RN[r, n]` times; NaN where nothing defines it.

    `series`: values (N, O) per forecast as `metrics.ScoreSums.series` gives them. `rmse_climax` is the mean of each
    forecast's RMSE and `acc_climax` the ACC of all forecasts pooled, as the ClimaX paper has them; `activity` is the
    root mean square anomaly of the forecasts, uncentred as the ACC. `pearson` is there where `truth_mean` is.
    """
    pooled = {name: _mean(weight_RN, series[name]) for name in ("product", "forecast_square", "truth_square")}
    scale = np.sqrt(pooled["forecast_square"] * pooled["truth_square"])
    nothing = np.full(scale.shape, np.nan)
    found = {
        "rmse": np.sqrt(_mean(weight_RN, series["rmse"])),
        "mae": _mean(weight_RN, series["mae"]),
        "bias": _mean(weight_RN, series["bias"]),
        "acc": _mean(weight_RN, series["acc"]),
        "rmse_climax": _mean(weight_RN, np.sqrt(series["rmse"])),
        "acc_climax": np.divide(pooled["product"], scale, out=nothing, where=scale > 0),
        "activity": np.sqrt(pooled["forecast_square"]),
        "activity_truth": np.sqrt(pooled["truth_square"]),
    }
    return found | ({"pearson": _pearson(series, weight_RN, pooled)} if "truth_mean" in series else {})


def _pearson(series: Mapping[str, Array], weight_RN: Array, pooled: Mapping[str, Array]) -> Array:
    """Correlation (R, O) over all cells and forecasts together, from moments about any one number per variable."""
    truth_RO = _mean(weight_RN, series["truth_mean"])
    forecast_RO = truth_RO + _mean(weight_RN, series["bias"])
    covariance_RO = pooled["product"] - forecast_RO * truth_RO
    scale_RO = np.sqrt(
        np.maximum(pooled["forecast_square"] - forecast_RO**2, 0) * np.maximum(pooled["truth_square"] - truth_RO**2, 0)
    )
    return np.divide(covariance_RO, scale_RO, out=np.full(scale_RO.shape, np.nan), where=scale_RO > 0)


def _mean(weight_RN: Array, values_NO: Array) -> Array:
    """Weighted mean (R, O) over the defined values; NaN where there is none."""
    defined_NO = np.isfinite(values_NO)
    total_RO = weight_RN @ np.where(defined_NO, values_NO, 0.0)
    count_RO = weight_RN @ defined_NO.astype(np.float64)
    return np.divide(total_RO, count_RO, out=np.full(total_RO.shape, np.nan), where=count_RO > 0)


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
    """How often (R, N) each draw holds each start: blocks of successive starts, of one run each, as many as cover N."""
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
    """Intervals and comparisons of all models at one lead time, on the same draws."""

    def __init__(self, series: Mapping[str, Mapping[str, Array]], starts: Sequence[int], bootstrap: Bootstrap) -> None:
        """`series`: label -> as `statistics` takes it; `starts`: time index (N,) of every forecast, ascending."""
        runs = runs_of(starts)
        self.block_steps = bootstrap.block_steps or max(
            wilks_block(np.asarray(column), runs)
            for one in series.values()
            for column in one["rmse"].T
            if np.isfinite(column).any()
        )
        weight_RN = draw_blocks(runs, self.block_steps, bootstrap.resamples)
        tail = 50 * (1 - bootstrap.confidence)
        self._percentiles = (tail, 100 - tail)
        self._draws = {label: statistics(one, weight_RN) for label, one in series.items()}
        whole = np.ones((1, len(starts)))
        self._values = {label: statistics(one, whole) for label, one in series.items()}

    def value(self, label: str, statistic: str, place: int) -> float | None:
        """The statistic of all forecasts, for the variable at `place`; None where undefined."""
        return _number(self._values[label][statistic][0, place])

    def interval(self, label: str, statistic: str, place: int) -> list[float] | None:
        """Its interval; None where undefined."""
        return self._between(self._draws[label][statistic][:, place])

    def difference(self, label: str, place: int, reference: str, reference_place: int) -> dict[str, object]:
        """RMSE of a model less that of a reference: value, interval, and in shares of the reference's RMSE."""
        a, b = (self._values[x]["rmse"][0, p] for x, p in ((label, place), (reference, reference_place)))
        draws_R = self._draws[label]["rmse"][:, place] - self._draws[reference]["rmse"][:, reference_place]
        return {
            "rmse": _number(a - b),
            "interval": self._between(draws_R),
            "relative": _number((a - b) / b if b else np.nan),
        }

    def _between(self, draws_R: Array) -> list[float] | None:
        draws_R = draws_R[np.isfinite(draws_R)]
        return [float(x) for x in np.percentile(draws_R, self._percentiles)] if len(draws_R) else None


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
