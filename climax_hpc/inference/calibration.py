"""Calibrated members: without the bias, and with the spread that fits the error, which a held-out period has shown.

Each member becomes x'_i = x̄ - b + s (x_i - x̄): b, the bias of the ensemble mean x̄ in each cell on the calendar day of
the start, and s, one factor for each variable and lead time. This is member-by-member calibration in its simplest form
(Van Schaeybroeck and Vannitsem 2015, Q. J. R. Meteorol. Soc. 141, 807-818): members keep their patterns.

s makes the spread/skill of the scores, √((M+1)/M · <v>/<(x̄-y)²>) with v the variance of the members, 1 in that period.
Where members and truth have one distribution, <(x̄-y)²> is (M+1)/M <v>, so that s is then 1 for every M. The s of least
CRPS would need a second pass over the forecasts, for the mean without bias; it is the same where errors and members are
Gaussian, with one variance everywhere.

Dimensions: M members · K functions of an annual cycle · D = 366 days of a leap year · O variables · H, W grid.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FieldWriter = Callable[[int, int, int, NDArray[Any]], None]
"""write(start index, lead index, member, fields (O, H, W)): stores one forecast."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a period says of the ensemble's forecasts at one lead time; on the CPU, in the members' unit.

    All is float64 but the bias of a file, which is float32: it is the only part that is large.
    """

    cycle_DK: Tensor
    """The functions of the calendar day that the bias is made of (`fields.annual_cycle`)."""
    bias_KOHW: Tensor
    """Their coefficients in the bias of the ensemble mean; NaN in cells that never had a truth."""
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

    def scaled(self, scale_O: Tensor) -> "Calibration":
        """The same in another unit: `scale_O` is the old one in terms of the new one."""
        return Calibration(
            cycle_DK=self.cycle_DK,
            bias_KOHW=self.bias_KOHW * scale_O[:, None, None],
            square_error_O=self.square_error_O * scale_O**2,
            variance_O=self.variance_O * scale_O**2,
            members=self.members,
        )

    def bias(self, day: int) -> Tensor:
        """Bias (O, H, W) of forecasts that start on a day of a leap year, from 0 (`calendar_days.day_numbers`)."""
        return torch.einsum("k,kohw->ohw", self.cycle_DK[day], self.bias_KOHW.double())

    def apply(self, members_MOHW: Tensor, day: int) -> Tensor:
        """Calibrated members of a forecast from this day, in their type and on their device; NaN where the bias is."""
        x_MOHW = members_MOHW.double()
        mean_OHW = x_MOHW.mean(dim=0)
        factor_O11 = self.factor(len(x_MOHW)).to(x_MOHW)[:, None, None]
        return (mean_OHW - self.bias(day).to(x_MOHW) + factor_O11 * (x_MOHW - mean_OHW)).to(members_MOHW.dtype)


class MemberCalibrator:
    """Passes members on, calibrated, when all of a start and lead time are there."""

    def __init__(
        self, write: FieldWriter, calibrations: Sequence[Calibration], members: int, days: Mapping[int, int]
    ) -> None:
        """Calibrate what is written.

        Args:
            write: stores calibrated members.
            calibrations: by index of the lead time, in the unit and of the variables of the fields.
            members: of each start and lead time.
            days: start index -> day of a leap year, from 0.
        """
        self._write, self._calibrations, self._members, self._days = write, calibrations, members, days
        self._waiting: dict[tuple[int, int], dict[int, NDArray[Any]]] = {}

    def write(self, place: int, lead: int, member: int, fields_OHW: NDArray[Any]) -> None:
        """Take the fields of one member."""
        found = self._waiting.setdefault((place, lead), {})
        found[member] = fields_OHW
        if len(found) == self._members:
            del self._waiting[place, lead]
            members_MOHW = torch.from_numpy(np.stack([found[m] for m in range(self._members)]))
            calibrated_MOHW = self._calibrations[lead].apply(members_MOHW, self._days[place])
            for m, calibrated_OHW in enumerate(calibrated_MOHW.numpy()):
                self._write(place, lead, m, calibrated_OHW)
