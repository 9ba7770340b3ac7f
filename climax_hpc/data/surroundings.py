"""Inputs that no time step of a source holds: static fields and solar inputs, on the cells of its batches.

Dimensions: B samples · K steps of a roll-out · G solar inputs · S static fields · H, W rows and columns of a batch.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from climax_hpc.data.device_copy import to_device
from climax_hpc.data.normalisation import Normalisation
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.solar_inputs import SolarInputs
from climax_hpc.fields.regions import Crop
from climax_hpc.fields.variables import lookup


class Surroundings:
    """Static fields and solar inputs of any samples, normalised, on a device; neither is moved by augmentation yet.

    Args:
        source: whose grid and static fields they have.
        normalisation: that of the model.
        inputs: variables of the model's input, of which these are some.
        device: where the fields are computed.
        crop: the cells of the batches; None: all of the grid.
        mirrored: the cells whose mirror images these are, if others; None: mirror images are not asked for.
    """

    def __init__(
        self,
        source: PackedSource,
        normalisation: Normalisation,
        inputs: Sequence[str],
        device: torch.device,
        *,
        crop: Crop | None = None,
        mirrored: Crop | None = None,
    ) -> None:
        self._source, self._normalisation, self._device = source, normalisation, device
        self._names = [v for v in inputs if lookup(v).static]
        self._solar_names = [v for v in inputs if lookup(v).solar]
        self.is_latitude_S = torch.tensor([name == "latitude" for name in self._names], dtype=torch.bool, device=device)
        self.solar, self._static_SHW = self._solar_on(crop), self._static_on(crop)
        self._mirrored: tuple[SolarInputs, Tensor] | None = None
        if mirrored is not None:  # latitude is that of the place itself: it is not mirrored
            static_SHW = self._static_on(mirrored)
            self._mirrored = (
                self._solar_on(mirrored),
                torch.where(self.is_latitude_S[:, None, None], self._static_SHW, static_SHW),
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns (H, W) of the fields."""
        rows, columns = self._static_SHW.shape[1:]
        return rows, columns

    def of(
        self, hours_BK: NDArray[np.float64], lead_hours_BK: NDArray[np.float64], mirrored_B: Sequence[bool]
    ) -> tuple[Tensor, Tensor]:
        """Solar inputs (B, K, G, H, W) and static fields (B, S, H, W), as they are before augmentation moves them.

        Args:
            hours_BK: times of the inputs of each step of a roll-out, hours since 1850.
            lead_hours_BK: lead times [h].
            mirrored_B: which samples augmentation will mirror; used where mirror images come from other cells.
        """
        solar_BKGHW = self._solar_of(self.solar, hours_BK, lead_hours_BK)
        static_BSHW = self._static_SHW.expand(len(hours_BK), *self._static_SHW.shape)
        if self._mirrored is None:
            return solar_BKGHW, static_BSHW
        solar, static_SHW = self._mirrored
        chosen_B1111 = to_device(np.array(mirrored_B, bool), self._device)[:, None, None, None, None]
        return (
            torch.where(chosen_B1111, self._solar_of(solar, hours_BK, lead_hours_BK), solar_BKGHW),
            torch.where(chosen_B1111[:, 0], static_SHW, static_BSHW),
        )

    def _solar_of(
        self, solar: SolarInputs, hours_BK: NDArray[np.float64], lead_hours_BK: NDArray[np.float64]
    ) -> Tensor:
        if not solar.names:
            return self._static_SHW.new_empty(len(hours_BK), 1, 0, *self.shape)
        return solar(hours_BK.ravel(), lead_hours_BK.ravel()).unflatten(0, hours_BK.shape)

    def _solar_on(self, crop: Crop | None) -> SolarInputs:
        return SolarInputs(
            self._solar_names,
            crop.grid if crop else self._source.grid,
            self._source.calendar,
            self._normalisation,
            self._device,
            padding_HW=crop.padding if crop else None,
        )

    def _static_on(self, crop: Crop | None) -> Tensor:
        norm, (rows, columns) = self._normalisation, self._source.grid.shape
        fields_SHW = np.zeros((len(self._names), rows, columns), np.float32)
        for field_HW, name in zip(fields_SHW, self._names, strict=True):
            field_HW[:] = (self._source.static[name] - norm.mean[name]) / norm.std[name]
        return torch.as_tensor(fields_SHW if crop is None else crop.apply(fields_SHW), device=self._device)
