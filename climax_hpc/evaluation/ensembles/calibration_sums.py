"""Fits the calibration of an ensemble at one lead time, in one pass over its forecasts and their truth.

Sums of squares suffice, so that no forecast is kept.

Dimensions: M members · O variables · H, W grid.
"""

import torch
from torch import Tensor

from climax_hpc.inference.calibration import Calibration


class CalibrationSums:
    """Sums over forecasts, each weighted as in the scores: by area over its valid cells, then equally."""

    def __init__(self, weight_H: Tensor) -> None:
        """`weight_H`: area weight of a cell in each row, in any unit, on the device of the forecasts."""
        self._weight_H1 = weight_H.double()[:, None]
        self._sums: dict[str, Tensor] = {}
        self._members = 0

    def add(self, members_MOHW: Tensor, truth_OHW: Tensor) -> None:
        """Add a forecast; cells where the truth or the forecast is NaN do not count."""
        x_MOHW = members_MOHW.double()
        self._members = len(x_MOHW)
        mean_OHW = x_MOHW.mean(dim=0)
        error_OHW = mean_OHW - truth_OHW.double()
        valid_OHW = torch.isfinite(error_OHW)
        area_O11 = (valid_OHW * self._weight_H1).sum(dim=(-2, -1), keepdim=True)
        share_OHW = valid_OHW / torch.where(area_O11 > 0, area_O11, 1.0)  # without the weight: rows of weight 0 count
        error_OHW = torch.where(valid_OHW, error_OHW, 0.0)
        variance_OHW = torch.where(valid_OHW, x_MOHW.var(dim=0), 0.0)
        found = {
            "share_OHW": share_OHW,
            "error_OHW": share_OHW * error_OHW,
            "square_O": self._over_area(share_OHW * error_OHW**2),
            "variance_O": self._over_area(share_OHW * variance_OHW),
            "forecasts_O": (area_O11 > 0).double().flatten(),
        }
        for name, value in found.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def calibration(self) -> Calibration:
        """The calibration of what was added; NaN for a variable without a valid cell."""
        sums = self._sums
        bias_OHW = sums["error_OHW"] / sums["share_OHW"]
        of_bias_O = self._over_area(torch.where(sums["share_OHW"] > 0, sums["error_OHW"] * bias_OHW, 0.0))
        return Calibration(
            bias_OHW=bias_OHW.cpu(),
            square_error_O=((sums["square_O"] - of_bias_O) / sums["forecasts_O"]).clamp(min=0).cpu(),
            variance_O=(sums["variance_O"] / sums["forecasts_O"]).cpu(),
            members=self._members,
        )

    def _over_area(self, share_OHW: Tensor) -> Tensor:
        return (share_OHW * self._weight_H1).sum(dim=(-2, -1))
