"""Augmentation on the sphere: shifts in longitude, mirror images about the equator.

Dimensions: B samples · T input times · C source channels · N northward winds among them · K steps of a roll-out ·
G solar inputs · S static fields · H, W grid · P = H·W cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from climax_hpc.data.device_copy import to_device
from climax_hpc.data.sampler import uniform


@dataclass(frozen=True)
class Move:
    """What augmentation does to the places of a sample: a shift in longitude, a mirror image about the equator."""

    shift: int
    """Columns to the east; at least 0, less than W."""
    mirrored: bool

    def copy(self, fields: Tensor, out: Tensor) -> None:
        """Copy fields (…, H, W) to their new places in `out` (…, H, W)."""
        fields = fields.flip(-2) if self.mirrored else fields
        if self.shift:
            out[..., self.shift :].copy_(fields[..., : -self.shift])
            out[..., : self.shift].copy_(fields[..., -self.shift :])
        else:
            out.copy_(fields)


def mirrored(key: int, samples: int) -> list[bool]:
    """Which samples of the micro-batch with this key are mirrored, where any may be."""
    return [uniform(key, 2, i) < 0.5 for i in range(samples)]


class Augmentation:
    """Shifts each sample by a random longitude; mirrors half of them about the equator, northward winds negated.

    The mirrored planet obeys the same dynamics, with the Coriolis force of the latitude at which air now lies: so the
    latitude field itself is not mirrored. The sun is: it shines on the air that it shone on before.

    Args:
        roll: shift in longitude.
        flip: mirror.
        northward_N: channels that change sign with the mirror image.
        offset_N: what is subtracted after the change of sign: twice mean / std of z-scores, 0 of anomalies.
        latitude_S: True for the latitude among the static fields.
    """

    def __init__(self, *, roll: bool, flip: bool, northward_N: Tensor, offset_N: Tensor, latitude_S: Tensor) -> None:
        self._roll, self._flip = roll, flip
        self._northward_N, self._offset_N11 = northward_N, offset_N[:, None, None]
        self._latitude_S11 = latitude_S[:, None, None]
        self.northward = list(zip(northward_N.tolist(), offset_N.tolist(), strict=True))
        """Channels that change sign with the mirror image, and what is subtracted then."""

    def __call__(
        self, key: int, x: Tensor, y: Tensor, solar: Tensor, static: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Inputs (B, T, C, H, W), targets (B, …, C, H, W), solar inputs (B, K, G, H, W) and static fields (B, S, H, W).

        They are changed as `key` decides.
        """
        moves_B = self.moves(key, len(x), x.shape[-1])
        changes_B2 = to_device(np.array([(move.shift, move.mirrored) for move in moves_B]), x.device)
        shifts_B, is_mirrored_B = changes_B2[:, 0], changes_B2[:, 1].bool()
        cell_BP = _origins(shifts_B, is_mirrored_B, *x.shape[-2:])
        moved_x, moved_y, moved_solar, moved_static = (_moved(field, cell_BP) for field in (x, y, solar, static))
        if any(move.mirrored for move in moves_B):
            for fields in (moved_x, moved_y):
                self._turn_winds(fields, is_mirrored_B)
        return moved_x, moved_y, moved_solar, torch.where(self._latitude_S11, static, moved_static)

    def moves(self, key: int, samples: int, columns: int) -> list[Move]:
        """What is done to each sample of the micro-batch with this key."""
        return [
            Move(shift=int(uniform(key, 1, i) * columns) if self._roll else 0, mirrored=self._flip and is_mirrored)
            for i, is_mirrored in enumerate(mirrored(key, samples))
        ]

    def move_surroundings(self, moves_B: Sequence[Move], solar: Tensor, static: Tensor) -> tuple[Tensor, Tensor]:
        """Solar inputs (B, K, G, H, W) and static fields (B, S, H, W) after these moves, on a processor."""
        moved_solar, moved_static = (torch.empty(fields.shape) for fields in (solar, static))
        for fields, out in ((solar, moved_solar), (static, moved_static)):
            for move, field, target in zip(moves_B, fields, out, strict=True):
                move.copy(field, target)
        return moved_solar, torch.where(self._latitude_S11, static, moved_static)

    def _turn_winds(self, fields: Tensor, is_mirrored_B: Tensor) -> None:
        """Give northward winds of mirrored samples among the fields (B, …, C, H, W) the other sign, in place."""
        winds = fields.index_select(-3, self._northward_N)
        chosen = is_mirrored_B.view(-1, *[1] * (fields.ndim - 1))
        fields.index_copy_(fields.ndim - 3, self._northward_N, torch.where(chosen, -winds - self._offset_N11, winds))


def _origins(shift_B: Tensor, is_mirrored_B: Tensor, rows: int, columns: int) -> Tensor:
    """Number (B, P) of the cell that each cell takes its values from."""
    row_H, column_W = (torch.arange(size, device=shift_B.device) for size in (rows, columns))
    row_BH = torch.where(is_mirrored_B[:, None], rows - 1 - row_H, row_H)
    column_BW = (column_W - shift_B[:, None]) % columns
    return (row_BH[:, :, None] * columns + column_BW[:, None, :]).flatten(1)


def _moved(fields: Tensor, cell_BP: Tensor) -> Tensor:
    """Fields (B, …, H, W) with the values of other cells of the same sample and channel."""
    flat_BNP = fields.flatten(1, -3).flatten(2)
    return flat_BNP.gather(2, cell_BP[:, None].expand_as(flat_BNP)).view(fields.shape)
