"""The calibration of an ensemble at one lead time, from one pass over its forecasts of a period and their truth.

Each member becomes x'_i = x̄ - b + s (x_i - x̄): b, the mean error of the ensemble mean x̄ in each cell, and s, one factor
for each variable. This is member-by-member calibration in its simplest form (Van Schaeybroeck and Vannitsem 2015,
Q. J. R. Meteorol. Soc. 141, 807-818): the members keep their patterns, and relations between variables but for s.

s makes the spread/skill of the scores, √((M+1)/M · <v>/<(x̄-y)²>) with v the variance of the members, 1 in that period.
Where members and truth have one distribution, <(x̄-y)²> is (M+1)/M <v>, so that s is then 1 for every M. Since sums of
squares suffice, no forecast is kept. The s of least CRPS would need a second pass, for the mean without bias; it is the
same where errors and members are Gaussian, with one variance everywhere.

Dimensions: M members · O variables · H, W grid.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a period says of the ensemble's forecasts at one lead time; on the CPU, float64, in the members' unit."""

    bias_OHW: Tensor
    """Mean error of the ensemble mean; NaN in cells that never had a truth."""
    square_error_O: Tensor
    """Mean square error of the ensemble mean without its bias."""
    variance_O: Tensor
    """Mean variance of the members, with M - 1 in its denominator."""
    members: int
    """M of the forecasts that were scored."""

    def factor(self, members: int) -> Tensor:
        """Factor s (O,) of the members' deviations, for an ensemble of so many of them; 1 where there is no spread.

        The mean of endless members has the square error e = <(x̄-y)²> - v/M, and s² = (M e/v + 1) / (M + 1).
        """
        own_O = (self.square_error_O + self.variance_O * (1 / members - 1 / self.members)).clamp(min=0)
        factor_O = (members / (members + 1) * own_O / self.variance_O).sqrt()
        return torch.where(self.variance_O > 0, factor_O, 1.0)

    def apply(self, members_MOHW: Tensor) -> Tensor:
        """Calibrated members of one forecast, in their type and on their device; NaN where the bias is."""
        x_MOHW = members_MOHW.double()
        mean_OHW = x_MOHW.mean(dim=0)
        factor_O11 = self.factor(len(x_MOHW)).to(x_MOHW)[:, None, None]
        return (mean_OHW - self.bias_OHW.to(x_MOHW) + factor_O11 * (x_MOHW - mean_OHW)).to(members_MOHW.dtype)


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
