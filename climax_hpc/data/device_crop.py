"""A region cut out of fields on a device.

Dimensions: C channels · h rows that were read · H, W rows and columns of the region.
"""

import numpy as np
import torch
from torch import Tensor

from climax_hpc.fields.regions import PADDING, Crop


def rows_of(crop: Crop | None) -> tuple[int, int] | None:
    """The rows of the grid that a region needs, as (first, stop); None without a region."""
    if crop is None:
        return None
    rows = crop.rows[crop.rows != PADDING]
    return int(rows.min()), int(rows.max()) + 1


class DeviceCrop:
    """Cuts a region out of its rows (…, h, W) on a device; NaN where the region reaches beyond the grid."""

    def __init__(self, crop: Crop, device: torch.device) -> None:
        first, _ = rows_of(crop) or (0, 0)
        self._rows = torch.as_tensor(np.maximum(crop.rows - first, 0), device=device)
        self._columns = torch.as_tensor(np.maximum(crop.columns, 0), device=device)
        self._padding_HW = torch.as_tensor(crop.padding, device=device) if crop.padding.any() else None

    def __call__(self, fields: Tensor) -> Tensor:
        cropped = fields.index_select(-2, self._rows).index_select(-1, self._columns)
        return cropped if self._padding_HW is None else cropped.masked_fill(self._padding_HW, torch.nan)
