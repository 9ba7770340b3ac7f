"""Fits the calibration of an ensemble at one lead time, in one pass over its forecasts and their truth.

The bias of a cell is a sum of functions of the calendar day (`fields.annual_cycle`), whose coefficients are fitted by
ridge regression. The errors of a period are partly chance: forecasts a few days apart share the weather. How large that
part is, the differences of the mean errors of successive blocks of days show; and what the coefficients have beyond it,
all cells together, is how large they really are. Both give the ridge (empirical Bayes). Sums of squares suffice, and no
forecast is kept.

Dimensions: M members · K functions of the calendar day · O variables · H, W grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from climax_hpc.inference.calibration import Calibration

BLOCK_DAYS = 15.0
"""Length of a block, so long that the errors of one hardly depend on those of the last."""
FEWEST_BLOCKS = 4
"""Blocks of a shorter period: fewer could not show how their means scatter."""
_TINY = 1e-12
"""Least ridge relative to the coefficients' own variance: without it cells with few values could not be solved."""
_ROUNDING = 1e-9
"""Below which a difference from 1 is one of rounding."""


def blocks_of(hours: Sequence[float]) -> list[int]:
    """Block of each start [h], of equal lengths of at most `BLOCK_DAYS`, at least `FEWEST_BLOCKS` of them."""
    since_N = np.asarray(hours, np.float64) - min(hours)
    span = float(since_N.max())
    number = max(FEWEST_BLOCKS, int(np.ceil(span / (24 * BLOCK_DAYS))))
    found: list[int] = np.minimum(since_N * number // (span or 1.0), number - 1).astype(int).tolist()
    return found


@dataclass(frozen=True)
class _BlockSums:
    """Sums over the forecasts of one block."""

    share_OHW: Tensor
    error_OHW: Tensor
    functions_KO: Tensor


class CalibrationSums:
    """Sums over forecasts, each weighted as in the scores: by area over its valid cells, then equally."""

    def __init__(self, weight_H: Tensor, cycle_DK: Tensor) -> None:
        """Begin with nothing.

        Args:
            weight_H: area weight of a cell in each row, in any unit, on the device of the forecasts.
            cycle_DK: functions of the day, orthonormal over the forecasts that will be added (`annual_cycle`).
        """
        self._weight_H1 = weight_H.double()[:, None]
        self._cycle_DK = cycle_DK.double()
        self._sums: dict[str, Tensor] = {}
        self._name: int | None = None  # of the block that is being summed
        self._block: _BlockSums | None = None
        self._last: _BlockSums | None = None  # block with a truth, of each variable
        self._members = 0

    def add(self, members_MOHW: Tensor, truth_OHW: Tensor, *, day: int, block: int) -> None:
        """Add a forecast; cells where the truth or the forecast is NaN do not count.

        Args:
            members_MOHW: the members.
            truth_OHW: the truth.
            day: of a leap year, from 0, on which it starts.
            block: names forecasts whose errors depend on each other; those of one are added one after the other, and
                blocks in the order of time.
        """
        x_MOHW = members_MOHW.double()
        self._members = len(x_MOHW)
        mean_OHW = x_MOHW.mean(dim=0)
        error_OHW = mean_OHW - truth_OHW.double()
        valid_OHW = torch.isfinite(error_OHW)
        area_O11 = (valid_OHW * self._weight_H1).sum(dim=(-2, -1), keepdim=True)
        share_OHW = valid_OHW / torch.where(area_O11 > 0, area_O11, 1.0)  # without the weight: rows of weight 0 count
        error_OHW = torch.where(valid_OHW, error_OHW, 0.0)
        weighted_OHW = share_OHW * error_OHW
        variance_OHW = torch.where(valid_OHW, x_MOHW.var(dim=0), 0.0)
        forecast_O = (area_O11 > 0).double().flatten()
        f_K = self._cycle_DK[day].to(x_MOHW.device)
        self._add_to_block(_BlockSums(share_OHW, weighted_OHW, f_K[:, None] * forecast_O), block)
        self._add(
            error_KOHW=f_K[:, None, None, None] * weighted_OHW,
            share_KKOHW=torch.outer(f_K, f_K)[:, :, None, None, None] * share_OHW,
            square_O=self._over_area(share_OHW * error_OHW**2),
            variance_O=self._over_area(share_OHW * variance_OHW),
            forecasts_O=forecast_O,
            whole_O=forecast_O / torch.where(area_O11 > 0, area_O11, 1.0).flatten(),
        )

    @property
    def forecasts_O(self) -> Tensor:
        """Number of forecasts (O,) that have a truth of each variable."""
        return self._sums["forecasts_O"]

    def calibration(self) -> Calibration:
        """The calibration of what was added; NaN for a variable without a valid cell."""
        self._end_block()
        sums = self._sums
        bias_KOHW = self._coefficients()
        fitted_KOHW = torch.nan_to_num(bias_KOHW)
        explained_KOHW = 2 * sums["error_KOHW"] - torch.einsum("klohw,lohw->kohw", sums["share_KKOHW"], fitted_KOHW)
        square_O = sums["square_O"] - self._over_area((fitted_KOHW * explained_KOHW).sum(dim=0))
        return Calibration(
            cycle_DK=self._cycle_DK.cpu(),
            bias_KOHW=bias_KOHW.cpu(),
            square_error_O=(square_O / sums["forecasts_O"]).clamp(min=0).cpu(),
            variance_O=(sums["variance_O"] / sums["forecasts_O"]).cpu(),
            members=self._members,
        )

    def _coefficients(self) -> Tensor:
        """Of the bias (K, O, H, W), by ridge regression with v/τ², v the variance by chance and τ² the true one."""
        sums = self._sums
        error_KOHW, share_KKOHW, forecasts_O = sums["error_KOHW"], sums["share_KKOHW"], sums["forecasts_O"]
        share_OHW = share_KKOHW[0, 0]
        # Besides the mean, so that cells which lack truth in one season do not seem to have a cycle.
        divisor_OHW = torch.where(share_OHW > 0, share_OHW, 1.0)
        found_KOHW = error_KOHW / divisor_OHW
        found_KOHW[1:] -= found_KOHW[0] * share_KKOHW[0, 1:] / divisor_OHW
        of_found_KO = self._over_area(share_OHW * found_KOHW**2) / forecasts_O
        chance_KO = self._variance_of_blocks() * sums["functions_KO"] / forecasts_O**2  # in a cell always valid
        area_O = self._over_area((share_OHW > 0).double())
        # The mean of chance over all cells in terms of that: 1, but for rounding, if a cell is valid always or never.
        more_O = area_O * sums["whole_O"] / forecasts_O
        more_O = torch.where(more_O > 1 + _ROUNDING, more_O, 1.0)
        true_KO = (of_found_KO - more_O * chance_KO).clamp(min=0)
        true_KO[1:] = torch.where(self._pairs() > 0, true_KO[1:], 0.0)  # one block tells nothing of other days
        # share_KKOHW of a cell that is always valid; it is the number of forecasts in the unit of the shares.
        number_O = forecasts_O / area_O * more_O
        ridge_KO = number_O * torch.maximum(chance_KO, _TINY * true_KO)
        found = [
            _ridge(error_KOHW[:, o], share_KKOHW[:, :, o], true_KO[:, o].sqrt(), ridge_KO[:, o])
            for o in range(len(number_O))
        ]
        return torch.where(share_OHW > 0, torch.stack(found, dim=1), torch.nan)

    def _variance_of_blocks(self) -> Tensor:
        """Variance (O,) by chance of the mean error of a block in a cell; 0 with a single block."""
        pairs_O = self._pairs()
        return torch.where(pairs_O > 0, self._sums.get("differences_O", pairs_O) / (2 * pairs_O), 0.0)

    def _pairs(self) -> Tensor:
        """Number (O,) of pairs of successive blocks that have a truth of each variable."""
        return self._sums.get("pairs_O", torch.zeros_like(self.forecasts_O))

    def _add_to_block(self, one: _BlockSums, name: int) -> None:
        if name != self._name:
            self._end_block()
            self._name, self._block = name, one
            return
        block = self._block
        assert block is not None
        self._block = _BlockSums(
            block.share_OHW + one.share_OHW, block.error_OHW + one.error_OHW, block.functions_KO + one.functions_KO
        )

    def _end_block(self) -> None:
        block, last = self._block, self._last
        if block is None:
            return
        self._add(functions_KO=block.functions_KO**2)
        if last is not None:
            both_OHW = (block.share_OHW > 0) & (last.share_OHW > 0)
            area_O = self._over_area(both_OHW.double())
            change_OHW = torch.where(both_OHW, block.error_OHW / block.share_OHW - last.error_OHW / last.share_OHW, 0.0)
            mean_O = self._over_area(change_OHW**2) / torch.where(area_O > 0, area_O, 1.0)
            self._add(differences_O=mean_O, pairs_O=(area_O > 0).double())
            has_truth_O11 = (self._over_area(block.share_OHW) > 0)[:, None, None]
            block = _BlockSums(
                torch.where(has_truth_O11, block.share_OHW, last.share_OHW),
                torch.where(has_truth_O11, block.error_OHW, last.error_OHW),
                block.functions_KO,
            )
        self._name, self._block, self._last = None, None, block

    def _add(self, **values: Tensor) -> None:
        for name, value in values.items():
            if name in self._sums:
                self._sums[name] += value
            else:
                self._sums[name] = value

    def _over_area(self, value_HW: Tensor) -> Tensor:
        """Sum over the last two dimensions, weighted by area."""
        return (value_HW * self._weight_H1).sum(dim=(-2, -1))


def _ridge(error_KHW: Tensor, share_KKHW: Tensor, size_K: Tensor, ridge_K: Tensor) -> Tensor:
    """Coefficients b (K, H, W) that solve (S + Λ) b = E in each cell, with Λ = ridge / size²; 0 where the size is 0.

    Solved for b / size, which has no division by 0.
    """
    scaled_KKHW = size_K[:, None, None, None] * share_KKHW * size_K[:, None, None]
    left_HWKK = scaled_KKHW.permute(2, 3, 0, 1) + torch.diag(torch.where(size_K > 0, ridge_K, 1.0))
    right_HWK = (size_K[:, None, None] * error_KHW).permute(1, 2, 0)
    return size_K[:, None, None] * torch.linalg.solve(left_HWKK, right_HWK).permute(2, 0, 1)
