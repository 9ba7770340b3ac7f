"""Fits the normalisation of a model to its training sources.

`full`: mean and standard deviation pooled over the sources. `anomaly`: also the spread of the anomalies, and for each
lead time r and s by least squares with cell-area weights over the training period.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from climax_hpc.data.normalisation import Normalisation
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.shared_work import computed_in_shares
from climax_hpc.errors import UserError
from climax_hpc.fields.averaging_window import Window, WindowSteps
from climax_hpc.fields.grid import latitude_weights

FIT_VERSION = 1
"""Raise it when other numbers come out of the same data: runs then fit again instead of taking their stored numbers."""
Array = NDArray[np.float64]
_BLOCK_STEPS = 256  # time steps of anomalies in memory while fitting, besides those of the longest lead time
_MAX_BLOCKS = 64  # per source; of longer periods, evenly spaced blocks are used: r and s stay accurate to below 1 %


def fit_normalisation(
    sources: Sequence[PackedSource],
    *,
    mode: str,
    period: tuple[str, str] | None,
    min_lead_hours: float,
    max_lead_hours: float,
    lead_stride_hours: float | None = None,
    window: Window | None = None,
) -> Normalisation:
    """Pool the statistics of the training sources; in `anomaly` mode, fit r and s on the training period.

    With a `window`, r and s relate the state at the start to means over the window, which starts at the lead time.
    The ranks of a process group share the work and must call this together; all get the same bits as one rank alone.

    Raises:
        UserError: in `anomaly` mode, a source without climatology or a variable whose anomalies are all zero.
    """
    mean, std = pooled_moments(sources)
    leads: list[float] = []
    fits: dict[str, dict[str, Any]] = {"anomaly_std": {}, "r": {}, "s": {}}
    if mode == "anomaly":
        spans = [s.times(period, min_lead_hours, max_lead_hours, lead_stride_hours=lead_stride_hours) for s in sources]
        steps = [range(t.min_lead_steps, t.max_lead_steps + 1, t.lead_stride_steps) for t in spans]
        leads = sorted({k * s.step_hours for s, ks in zip(sources, steps, strict=True) for k in ks})
        sums = _lag_sums(sources, period, leads, window)
        for name in sorted(sums):
            fits["anomaly_std"][name], fits["r"][name], fits["s"][name] = sums[name].solve(name, leads)
    return Normalisation(mode=mode, mean=mean, std=std, lead_hours=leads, **fits)


def pooled_moments(sources: Sequence[PackedSource]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and standard deviation of each variable over all sources, with equal weights."""
    moments: dict[str, list[tuple[float, float]]] = {}
    for source in sources:
        for name, m, s in zip(source.channels, source.mean_C, source.std_C, strict=True):
            moments.setdefault(name, []).append((float(m), float(s)))
        for name, field in source.static.items():
            moments.setdefault(name, []).append((float(np.nanmean(field)), float(np.nanstd(field))))
    mean = {name: float(np.mean([m for m, _ in pairs])) for name, pairs in moments.items()}
    std = {
        name: float(np.sqrt(np.mean([s**2 + (m - mean[name]) ** 2 for m, s in pairs])))
        for name, pairs in moments.items()
    }
    return mean, {name: value if value > 0 else 1.0 for name, value in std.items()}


class _LagSums:
    """Weighted sums of x², x·y, y² over pairs (x now, y at a lead time) of a variable, by lead time; and of all x²."""

    def __init__(self, leads: int) -> None:
        self.pairs_L4 = np.zeros((leads, 4))
        self.square, self.weight = 0.0, 0.0

    def add(self, terms_K: Array) -> None:
        """Add the sums of one block of time steps, as `_block_sums` returns them."""
        self.square += float(terms_K[0])
        self.weight += float(terms_K[1])
        self.pairs_L4 += terms_K[2:].reshape(-1, 4)

    def solve(self, name: str, leads: Sequence[float]) -> tuple[float, list[float], list[float]]:
        """Anomaly spread; r and s (relative to the spread) by lead time, interpolated where a lead time has no pairs.

        Raises:
            UserError: no anomaly, or no pair at any lead time.
        """
        if self.square <= 0:
            raise UserError(f"the anomalies of {name} are all zero or missing: leave it out of data.in_variables")
        spread = float(np.sqrt(self.square / self.weight))
        weight, xx, xy, yy = self.pairs_L4.T
        has = (weight > 0) & (xx > 0)
        if not has.any():
            raise UserError(
                f"{name} has no two values {leads[0]:g} h or more apart in the training period: widen data.period "
                "(evaluate: train_period), or shorten the lead times"
            )
        r_L = np.divide(xy, xx, out=np.zeros_like(xy), where=has)
        residual_L = np.divide(yy - r_L * xy, weight, out=np.zeros_like(yy), where=has)
        s_L = np.sqrt(np.maximum(residual_L, (1e-3 * spread) ** 2)) / spread
        fill = [np.interp(leads, np.asarray(leads)[has], values[has]) for values in (r_L, s_L)]
        return spread, fill[0].tolist(), fill[1].tolist()


class _Block(NamedTuple):
    """Consecutive time steps of a source: start times first … first + starts - 1, and the end of their segment."""

    source: PackedSource
    first: int
    starts: int
    end: int


def _lag_sums(
    sources: Sequence[PackedSource], period: tuple[str, str] | None, leads: Sequence[float], window: Window | None
) -> dict[str, _LagSums]:
    """The sums of every channel over all sources."""
    windows = {s.name: window.over(s.step_hours, s.name) if window else None for s in sources}
    blocks = [block for source in sources for block in _blocks(source, period)]
    sizes = [len(block.source.channels) * (2 + 4 * len(leads)) for block in blocks]
    sums = {name: _LagSums(len(leads)) for source in sources for name in source.channels}
    terms = computed_in_shares(sizes, lambda n: _block_sums(blocks[n], leads, windows[blocks[n].source.name]))
    for block, of_block in zip(blocks, terms, strict=True):
        for name, terms_K in zip(block.source.channels, of_block.reshape(len(block.source.channels), -1), strict=True):
            sums[name].add(terms_K)
    return sums


def _block_sums(block: _Block, leads: Sequence[float], window: WindowSteps | None) -> Array:
    """Of every channel (C, 2 + 4·L): Σwx² and Σw over the start times, then the `_pair_sums` of each lead time."""
    source = block.source
    weight_HW = np.repeat(latitude_weights(source.grid)[:, None], source.grid.shape[1], axis=1).astype(np.float32)
    lag_steps = {i: round(lead / source.step_hours) for i, lead in enumerate(leads) if lead % source.step_hours == 0}
    last = min(block.first + block.starts + max(lag_steps.values()) + (window.tail if window else 0), block.end)
    block_TCHW = np.stack([anomaly(source, t) for t in range(block.first, last)])
    terms_CK = np.zeros((len(source.channels), 2 + 4 * len(leads)))
    for x_THW, terms_K in zip(np.moveaxis(block_TCHW, 1, 0), terms_CK, strict=True):
        _channel_sums(x_THW, block.starts, lag_steps, window, weight_HW, terms_K)
    return terms_CK


def _channel_sums(
    field_THW: Any, starts: int, lag_steps: dict[int, int], window: WindowSteps | None, weight_HW: Any, terms_K: Array
) -> None:
    """Write the sums of one channel into `terms_K`; see `_block_sums`."""
    x_THW, valid_THW = _filled(field_THW)
    y_THW, there_THW = _filled(window.moving_means(field_THW)) if window else (x_THW, valid_THW)
    terms_K[0] = np.einsum("thw,thw,hw->", x_THW[:starts], x_THW[:starts], weight_HW)
    terms_K[1] = (valid_THW[:starts] * weight_HW).sum(dtype=np.float64)
    for i, lag in lag_steps.items():
        pairs = min(starts, len(y_THW) - lag)
        if pairs > 0:
            now, later = slice(0, pairs), slice(lag, lag + pairs)
            terms_K[2 + 4 * i : 6 + 4 * i] = _pair_sums(
                x_THW[now], y_THW[later], valid_THW[now] & there_THW[later], weight_HW
            )


def _filled(field_THW: Any) -> tuple[Any, Any]:
    """The field with 0 where it is missing, and True where it is not missing."""
    valid_THW = np.isfinite(field_THW)
    return np.where(valid_THW, field_THW, 0), valid_THW


def _pair_sums(x_THW: Any, y_THW: Any, valid_THW: Any, weight_HW: Any) -> Array:
    """Σw, Σwx², Σwxy, Σwy² over valid pairs."""
    w_THW = valid_THW * weight_HW
    wx_THW = w_THW * x_THW
    return np.array(
        [w_THW.sum(dtype=np.float64), np.vdot(wx_THW, x_THW), np.vdot(wx_THW, y_THW), np.vdot(w_THW * y_THW, y_THW)]
    )


def _blocks(source: PackedSource, period: tuple[str, str] | None) -> list[_Block]:
    """Blocks of at most `_BLOCK_STEPS` start times; of many, `_MAX_BLOCKS` evenly spaced ones."""
    blocks = [
        _Block(source, segment.first + start, min(_BLOCK_STEPS, segment.steps - start), segment.first + segment.steps)
        for segment in source.within(period)
        for start in range(0, segment.steps, _BLOCK_STEPS)
    ]
    return blocks[:: -(-len(blocks) // _MAX_BLOCKS)]


def anomaly(source: PackedSource, time_index: int) -> NDArray[np.float32]:
    """Departure (C, H, W) from the climatology of the day and hour [physical units]; NaN where missing."""
    z_CHW = source.read(time_index).astype(np.float32) - source.read_climatology(time_index)
    return z_CHW * source.std_C.astype(np.float32)[:, None, None]
