"""Fits the calibration of an ensemble at one lead time, in one pass over its forecasts and their truth.

Sums of squares suffice, so that no forecast is kept. The mean error of a period is partly chance: forecasts a few days
apart share the weather. How much of it is chance, the means of blocks of days show, and only the rest is the bias.

Dimensions: M members · O variables · H, W grid.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from climax_hpc.inference.calibration import Calibration

BLOCK_DAYS = 15.0
"""Length of a block, so long that the errors of one hardly depend on those of the last."""
FEWEST_BLOCKS = 4
"""Blocks of a shorter period: fewer could not show how their means scatter."""


def blocks_of(hours: Sequence[float]) -> list[int]:
    """Block of each start [h], of equal lengths of at most `BLOCK_DAYS`, at least `FEWEST_BLOCKS` of them."""
    since_N = np.asarray(hours, np.float64) - min(hours)
    span = float(since_N.max())
    number = max(FEWEST_BLOCKS, int(np.ceil(span / (24 * BLOCK_DAYS))))
    found: list[int] = np.minimum(since_N * number // (span or 1.0), number - 1).astype(int).tolist()
    return found


class CalibrationSums:
    """Sums over forecasts, each weighted as in the scores: by area over its valid cells, then equally."""

    def __init__(self, weight_H: Tensor) -> None:
        """`weight_H`: area weight of a cell in each row, in any unit, on the device of the forecasts."""
        self._weight_H1 = weight_H.double()[:, None]
        self._sums: dict[str, Tensor] = {}
        self._block: int | None = None
        self._share_OHW = self._error_OHW = torch.zeros(())  # of the block
        self._members = 0

    def add(self, members_MOHW: Tensor, truth_OHW: Tensor, block: int) -> None:
        """Add a forecast; cells where the truth or the forecast is NaN do not count.

        Args:
            members_MOHW: the members.
            truth_OHW: the truth.
            block: names forecasts whose errors depend on each other; they are added one after the other.
        """
        x_MOHW = members_MOHW.double()
        self._members = len(x_MOHW)
        mean_OHW = x_MOHW.mean(dim=0)
        error_OHW = mean_OHW - truth_OHW.double()
        valid_OHW = torch.isfinite(error_OHW)
        area_O11 = (valid_OHW * self._weight_H1).sum(dim=(-2, -1), keepdim=True)
        share_OHW = valid_OHW / torch.where(area_O11 > 0, area_O11, 1.0)  # without the weight: rows of weight 0 count
        error_OHW = torch.where(valid_OHW, error_OHW, 0.0)
        variance_OHW = torch.where(valid_OHW, x_MOHW.var(dim=0), 0.0)
        if block != self._block:
            self._end_block()
            self._block = block
            self._share_OHW, self._error_OHW = torch.zeros_like(share_OHW), torch.zeros_like(share_OHW)
        self._share_OHW += share_OHW
        self._error_OHW += share_OHW * error_OHW
        self._add(
            square_O=self._over_area(share_OHW * error_OHW**2),
            variance_O=self._over_area(share_OHW * variance_OHW),
            forecasts_O=(area_O11 > 0).double().flatten(),
        )

    def calibration(self) -> Calibration:
        """The calibration of what was added; NaN for a variable without a valid cell."""
        self._end_block()
        self._block, sums = None, self._sums
        mean_OHW = sums["error_OHW"] / sums["share_OHW"]
        share_OHW, chance_OHW = sums["share_OHW"], self._variance_of_mean(mean_OHW)
        of_mean_O, of_chance_O = (
            self._over_area(torch.where(share_OHW > 0, share_OHW * square_OHW, 0.0))
            for square_OHW in (mean_OHW**2, chance_OHW)
        )
        kept_O = torch.where(of_mean_O > 0, (1 - of_chance_O / of_mean_O).clamp(min=0), 0.0)
        square_O = sums["square_O"] - (2 * kept_O - kept_O**2) * of_mean_O
        return Calibration(
            bias_OHW=(kept_O[:, None, None] * mean_OHW).cpu(),
            square_error_O=(square_O / sums["forecasts_O"]).clamp(min=0).cpu(),
            variance_O=(sums["variance_O"] / sums["forecasts_O"]).cpu(),
            members=self._members,
        )

    def _variance_of_mean(self, mean_OHW: Tensor) -> Tensor:
        """Of each cell, from the scatter of the means of blocks, each with its share; 0 with a single block."""
        sums = self._sums
        scatter_OHW = sums["ee_OHW"] - 2 * mean_OHW * sums["es_OHW"] + mean_OHW**2 * sums["ss_OHW"]
        more_OHW = (sums["blocks_OHW"] - 1).clamp(min=1)
        return scatter_OHW.clamp(min=0) / sums["share_OHW"] ** 2 * sums["blocks_OHW"] / more_OHW

    def _end_block(self) -> None:
        if self._block is None:
            return
        error_OHW, share_OHW = self._error_OHW, self._share_OHW
        self._add(
            error_OHW=error_OHW,
            share_OHW=share_OHW,
            ee_OHW=error_OHW**2,
            es_OHW=error_OHW * share_OHW,
            ss_OHW=share_OHW**2,
            blocks_OHW=(share_OHW > 0).double(),
        )

    def _add(self, **values: Tensor) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def _over_area(self, share_OHW: Tensor) -> Tensor:
        return (share_OHW * self._weight_H1).sum(dim=(-2, -1))
