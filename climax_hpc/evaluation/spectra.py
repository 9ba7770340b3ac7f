"""Zonal power spectra as mergeable sums; compared with the truth, they show which scales a forecast has smoothed.

The power at zonal wavenumber k of a row of W cells with discrete Fourier transform F is |F_0|²/W² for k = 0, 2|F_k|²/W²
between, and |F_{W/2}|²/W² at the end where W is even: it adds up to the mean square of the row (Parseval). Rows are
averaged with their area weight over a band of latitudes; rows with a missing cell are left out.
Dimensions: B forecasts · O variables · H rows of the band, W columns · K wavenumbers 0 … W//2.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from climax_hpc.data.device_copy import to_device
from climax_hpc.evaluation.metrics import Array
from climax_hpc.evaluation.readback import Readback
from climax_hpc.model.indices import index_tensor

BAND_DEG = (30.0, 60.0)  # north and south: the storm tracks, as in WeatherBench 2's spectra


def zonal_power(field: Array) -> Array:
    """Power (…, K) of rows (…, W), in the square of their units; NaN where a cell is missing."""
    width = field.shape[-1]
    power = np.abs(np.fft.rfft(field, axis=-1)) ** 2 / width**2
    last = power.shape[-1] - (width % 2 == 0)
    power[..., 1:last] *= 2
    return power


def zonal_power_on_device(field: Tensor) -> Tensor:
    """The same by torch, in float64 after the transform."""
    width = field.shape[-1]
    power = torch.fft.rfft(field, dim=-1).abs().double() ** 2 / width**2
    last = power.shape[-1] - (width % 2 == 0)
    power[..., 1:last] *= 2
    return power


def band_rows(lat: Array) -> NDArray[np.intp]:
    """Rows between 30 and 60 degrees north and south; all rows of grids that have none there."""
    rows = np.flatnonzero((abs(lat) >= BAND_DEG[0]) & (abs(lat) <= BAND_DEG[1]))
    return rows if len(rows) else np.arange(len(lat))


class SpectrumSums:
    """Sums of spectra over forecasts, weighted by the area of their rows; sums of parts add up."""

    def __init__(self, variables: Sequence[str], lat: Array, weight_H: Array) -> None:
        self._variables, self._rows = tuple(variables), band_rows(lat)
        self._weight_H = weight_H[self._rows]
        self._total_OK: Array | None = None
        self._weight_O = np.zeros(len(self._variables))

    def add(self, field_BOHW: Tensor, readback: Readback | None = None) -> None:
        """Add a batch of fields on the whole grid, NaN where missing; with a `readback`, once that is run."""
        own = readback or Readback()
        on_host = field_BOHW.device.type == "cpu"  # by NumPy, so that spectra keep their bits
        own.want(self._sums_on_host(field_BOHW.numpy()) if on_host else self._sums_on_device(field_BOHW), self._keep)
        if readback is None:
            own.run()

    def _sums_on_host(self, field_BOHW: Array) -> Tensor:
        """Of each variable the sum of power by wavenumber, then that of the weights."""
        power_BOHK = zonal_power(field_BOHW[:, :, self._rows])
        valid_BOH: NDArray[np.bool_] = np.asarray(np.isfinite(power_BOHK).all(axis=-1))
        weight_BOH = valid_BOH * self._weight_H
        total_OK = np.einsum("boh,bohk->ok", weight_BOH, np.where(valid_BOH[..., None], power_BOHK, 0.0))
        return torch.from_numpy(np.concatenate([total_OK, weight_BOH.sum(axis=(0, 2))[:, None]], axis=1))

    def _sums_on_device(self, field_BOHW: Tensor) -> Tensor:
        """The same by torch."""
        device = field_BOHW.device
        power_BOHK = zonal_power_on_device(field_BOHW.index_select(2, index_tensor(self._rows.tolist(), device)))
        valid_BOH = torch.isfinite(power_BOHK).all(dim=-1)
        weight_BOH = valid_BOH * to_device(self._weight_H, device)
        total_OK = torch.einsum("boh,bohk->ok", weight_BOH, torch.where(valid_BOH[..., None], power_BOHK, 0.0))
        return torch.cat([total_OK, weight_BOH.sum(dim=(0, 2))[:, None]], dim=1)

    def _keep(self, sums_OK: Array) -> None:
        """Add the sums of a batch: total power by wavenumber, then weight."""
        total_OK = sums_OK[:, :-1]
        self._total_OK = total_OK if self._total_OK is None else self._total_OK + total_OK
        self._weight_O = self._weight_O + sums_OK[:, -1]

    def __iadd__(self, other: "SpectrumSums") -> "SpectrumSums":
        if other._total_OK is not None:
            self._total_OK = other._total_OK if self._total_OK is None else self._total_OK + other._total_OK
            self._weight_O = self._weight_O + other._weight_O
        return self

    def spectra(self) -> dict[str, list[float]]:
        """Variable -> mean power by wavenumber; variables without a whole row are left out."""
        if self._total_OK is None:
            return {}
        return {
            name: (total_K / weight).tolist()
            for name, total_K, weight in zip(self._variables, self._total_OK, self._weight_O, strict=True)
            if weight > 0
        }
