"""Normalisation of a downscaling model: mean and spread per variable; in `anomaly` mode, the interpolated skip too.

`full`: z-scores; a variable on both grids is normalised by its fine statistics. `anomaly` (not in ClimaX): departures
from each source's own climatology; forecast anomaly = r·(interpolated coarse anomaly) + s·network, with r and s by
least squares over cells and a sample of the training steps; r is 0 for what the coarse source lacks.
Dimensions: N sampled pairs · H, W fine grid.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from climax_hpc.data.normalisation import Normalisation
from climax_hpc.data.normalisation_fit import anomaly, pooled_moments
from climax_hpc.errors import UserError
from climax_hpc.fields.grid import latitude_weights
from climax_hpc.tasks.downscaling.grids import Interpolator
from climax_hpc.tasks.downscaling.pairs import PairedSource

_MOST_STEPS = 512  # per source: r and s are accurate to a few per cent with this many


def fit_pair_normalisation(
    sources: Sequence[PairedSource],
    *,
    outputs: Sequence[str],
    mode: str,
    period: tuple[str, str] | None,
    base: Normalisation | None,
) -> Normalisation:
    """Normalisation of the pairs; that of `base`, a checkpoint's, for the variables that it has.

    Raises:
        UserError: `anomaly` mode with a source without climatology, or a variable whose anomalies are all zero.
    """
    coarse, fine = (pooled_moments([getattr(s, kind) for s in sources]) for kind in ("coarse", "fine"))
    mean, std = (a | b for a, b in zip(coarse, fine, strict=True))
    if base:
        mean, std = mean | base.mean, std | base.std
    if mode != "anomaly":
        return Normalisation(mode=mode, mean=mean, std=std, anomaly_std={}, lead_hours=[], r={}, s={})
    spread, r, residual = _regress(sources, outputs, period)
    if base:
        spread = spread | base.anomaly_std
    return Normalisation(
        mode=mode,
        mean=mean,
        std=std,
        anomaly_std=spread,
        lead_hours=[0.0],
        r={name: [r[name]] for name in outputs},
        s={name: [residual[name] / spread[name]] for name in outputs},
    )


class _Sums:
    """Area-weighted sums over cells and steps of x², xy, y², and of weights, per variable."""

    def __init__(self) -> None:
        self.sums: dict[str, NDArray[np.float64]] = {}

    def add(
        self, name: str, x_HW: NDArray[np.float64], y_HW: NDArray[np.float64], weight_HW: NDArray[np.float64]
    ) -> None:
        valid = np.isfinite(x_HW) & np.isfinite(y_HW)
        w, x, y = (np.where(valid, a, 0.0) for a in (weight_HW, x_HW, y_HW))
        terms = np.array([w.sum(), (w * x * x).sum(), (w * x * y).sum(), (w * y * y).sum()])
        self.sums[name] = self.sums.get(name, np.zeros(4)) + terms


def _regress(
    sources: Sequence[PairedSource], outputs: Sequence[str], period: tuple[str, str] | None
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Spread of the anomalies (fine if available), r, and spread of the residual, in physical units."""
    inputs, pairs = _Sums(), _Sums()
    for source in sources:
        interpolate = Interpolator(
            source.coarse.grid, source.fine.grid, dtype=torch.float64, device=torch.device("cpu")
        )
        weight_HW = np.repeat(latitude_weights(source.fine.grid)[:, None], source.fine.grid.shape[1], axis=1)
        steps = np.concatenate([np.arange(s.first, s.first + s.steps) for s in source.within(period)])
        for n in steps[:: -(-len(steps) // _MOST_STEPS)]:
            x_ChW = torch.from_numpy(anomaly(source.coarse, int(source.coarse_N[n])).astype(np.float64))
            x_CHW = interpolate(x_ChW[None])[0].numpy()
            y_CHW = anomaly(source.fine, int(source.fine_N[n])).astype(np.float64)
            for c, name in enumerate(source.coarse.channels):
                inputs.add(name, x_CHW[c], x_CHW[c], weight_HW)
            for c, name in enumerate(source.fine.channels):
                held = name in source.coarse.channels
                x_HW = x_CHW[source.coarse.channels.index(name)] if held else np.zeros(y_CHW[c].shape)
                pairs.add(name, x_HW, y_CHW[c], weight_HW)
    spread = {name: _root(name, square, weight) for name, (weight, square, _, _) in inputs.sums.items()}
    spread |= {name: _root(name, square, weight) for name, (weight, _, _, square) in pairs.sums.items()}
    r, residual = {}, {}
    for name in outputs:
        weight, xx, xy, yy = pairs.sums[name]
        r[name] = float(xy / xx) if xx > 0 else 0.0
        left = (yy - r[name] * xy) / weight
        residual[name] = float(np.sqrt(max(left, (1e-3 * spread[name]) ** 2)))
    return spread, r, residual


def _root(name: str, square: float, weight: float) -> float:
    if not (weight > 0 and square > 0):
        raise UserError(f"the anomalies of {name} are all zero or missing: leave it out with data.in_variables")
    return float(np.sqrt(square / weight))
