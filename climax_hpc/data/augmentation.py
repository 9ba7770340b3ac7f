"""Augmentation on the sphere: shifts in longitude, mirror images about the equator.

Dimensions: B samples · T input times · C source channels · S static fields · H, W grid.
"""

import torch
from torch import Tensor

from climax_hpc.data.sampler import uniform


class Augmentation:
    """Shifts each sample by a random longitude; mirrors half of them about the equator, northward winds negated.

    The mirrored planet obeys the same dynamics, with the Coriolis force of the latitude at which air now lies: so the
    latitude field itself is not mirrored.

    Args:
        roll: shift in longitude.
        flip: mirror.
        northward_C: True for channels that change sign with the mirror image.
        offset_C: what is subtracted after the change of sign, (C, 1, 1): twice mean / std of z-scores, 0 of anomalies.
        latitude: places of the latitude among the static fields.
    """

    def __init__(self, *, roll: bool, flip: bool, northward_C: Tensor, offset_C: Tensor, latitude: list[int]) -> None:
        self._roll, self._flip = roll, flip
        self._northward_C, self._offset_C, self._latitude = northward_C, offset_C, latitude

    def __call__(self, key: int, x: Tensor, y: Tensor, static: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs (B, T, C, H, W), targets (B, …, C, H, W) and static fields (B, S, H, W), changed as `key` decides."""
        augmented: tuple[list[Tensor], ...] = ([], [], [])
        for i in range(len(x)):
            parts = self._one(key, i, [x[i], y[i], static[i]])
            for whole, part in zip(augmented, parts, strict=True):
                whole.append(part)
        x, y, static = (torch.stack(whole) for whole in augmented)
        return x, y, static

    def _one(self, key: int, i: int, fields: list[Tensor]) -> list[Tensor]:
        """Sample i of the micro-batch."""
        shift = int(uniform(key, 1, i) * fields[0].shape[-1]) if self._roll else 0
        parts = [torch.roll(field, shift, -1) for field in fields]
        if self._flip and uniform(key, 2, i) < 0.5:
            parts = [part.flip(-2) for part in parts]
            north = self._northward_C[:, None, None]
            for k in (0, 1):
                parts[k] = torch.where(north, -parts[k] - self._offset_C, parts[k])
        parts[2][self._latitude] = fields[2][self._latitude]
        return parts
