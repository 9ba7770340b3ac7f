"""Insolation and the cosine of the solar zenith angle as inputs of networks: computed for every sample, never stored.

Dimensions: B samples · G solar inputs · H, W grid, or the rows and columns of a region.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from climax_hpc.data.device_copy import to_device
from climax_hpc.data.normalisation import Normalisation
from climax_hpc.fields.grid import Grid
from climax_hpc.fields.solar import SOLAR_CONSTANT, sun_at
from climax_hpc.fields.variables import SOLAR, lookup

# Mean and standard deviation over the sphere, the same at any time but for the distance of the sun: the cosine is
# uniform in -1 … 1 there, and insolation is proportional to its positive part.
_MOMENTS = {"cosine": (0.0, 3**-0.5), "insolation": (SOLAR_CONSTANT / 4, SOLAR_CONSTANT * (5 / 48) ** 0.5)}


def with_solar(normalisation: Normalisation, names: Sequence[str]) -> Normalisation:
    """The normalisation with mean and standard deviation of these solar inputs over the sphere, at 1 AU.

    They are the same in both output modes: nothing is subtracted but the mean.
    """
    moments = {name: _MOMENTS[str(SOLAR[name].solar)] for name in names}
    return replace(
        normalisation,
        mean=normalisation.mean | {name: mean for name, (mean, _) in moments.items()},
        std=normalisation.std | {name: std for name, (_, std) in moments.items()},
    )


class SolarInputs:
    """Solar inputs of any samples on one grid, normalised, on a device.

    The cosine of the zenith angle at the centre of each cell is sin φ sin δ + cos φ cos δ cos h (latitude φ,
    declination δ, hour angle h); it is negative at night. Insolation is its positive part times the irradiance. Both
    are instantaneous.

    Args:
        names: solar inputs, in the order of the network's inputs; may be empty.
        grid: its cells.
        calendar: CF calendar of the times.
        normalisation: mean and standard deviation of the inputs.
        device: where the fields are computed.
        padding_HW: True in cells that are missing in all inputs; None: none is.
        dtype: of the fields.
    """

    def __init__(
        self,
        names: Sequence[str],
        grid: Grid,
        calendar: str,
        normalisation: Normalisation,
        device: torch.device,
        *,
        padding_HW: NDArray[np.bool_] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.names = tuple(names)
        self._calendar, self._shape, self._device, self._dtype = calendar, grid.shape, device, dtype
        self._variables = [lookup(name) for name in names]
        self._mean_G = [float(normalisation.mean[name]) for name in names]
        self._std_G = [float(normalisation.std[name]) for name in names]
        lat_H, lon_W = np.deg2rad(grid.lat), np.deg2rad(grid.lon)
        self._sin_lat_H1, self._cos_lat_H1 = (self._tensor(f(lat_H))[:, None] for f in (np.sin, np.cos))
        self._lon_W = self._tensor(lon_W)
        has_padding = padding_HW is not None and padding_HW.any()
        self._padding_HW = torch.as_tensor(padding_HW, device=device) if has_padding else None

    def __call__(self, hours_B: NDArray[np.float64], lead_hours_B: NDArray[np.float64]) -> Tensor:
        """Fields (B, G, H, W) for inputs at `hours_B`, hours since 1850, and forecasts `lead_hours_B` later.

        Raises:
            UserError: the calendar is unknown.
        """
        x_BGHW = torch.empty(len(hours_B), len(self.names), *self._shape, dtype=self._dtype, device=self._device)
        for at_valid_time in {v.at_valid_time for v in self._variables}:
            cosine_BHW, irradiance_B11 = self._sun(hours_B + lead_hours_B if at_valid_time else hours_B)
            for g, variable in enumerate(self._variables):
                if variable.at_valid_time == at_valid_time:
                    field_BHW = cosine_BHW
                    if variable.solar == "insolation":
                        field_BHW = cosine_BHW.clamp(min=0) * irradiance_B11
                    torch.sub(field_BHW, self._mean_G[g], out=x_BGHW[:, g]).div_(self._std_G[g])
        return x_BGHW if self._padding_HW is None else x_BGHW.masked_fill_(self._padding_HW, torch.nan)

    def _sun(self, hours_B: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        """Cosine of the zenith angle (B, H, W), and irradiance (B, 1, 1) [W m-2]."""
        sun = sun_at(hours_B, self._calendar)
        table_4B = self._tensor([sun.sin_declination_N, sun.cos_declination_N, sun.greenwich_N, sun.irradiance_N])
        sin_B11, cos_B11, greenwich_B11, irradiance_B11 = table_4B[..., None, None]
        cos_hour_B1W = torch.cos(greenwich_B11 + self._lon_W)
        return torch.addcmul(sin_B11 * self._sin_lat_H1, cos_B11 * self._cos_lat_H1, cos_hour_B1W), irradiance_B11

    def _tensor(self, values: NDArray[np.float64] | list[NDArray[np.float64]]) -> Tensor:
        return to_device(torch.as_tensor(np.asarray(values), dtype=self._dtype), self._device)
