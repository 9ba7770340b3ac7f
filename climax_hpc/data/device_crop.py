"""The cells of batches, a region or a band of rows, cut out of fields on a device.

Dimensions: C channels · h rows that were read · H, W rows and columns of the region.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from climax_hpc.fields.grid import Grid
from climax_hpc.fields.regions import PADDING, Crop, band_of
from climax_hpc.model.band import RowBand


def cells_of(grid: Grid, crop: Crop | None, band: RowBand | None, random_flip: bool) -> tuple[Crop | None, Crop | None]:
    """The cells of batches, and those that their mirror images come from, if others; None: all of the grid."""
    if band is None:
        return crop, None
    count = grid.shape[0] if crop is None else len(crop.rows)
    first, stop = band.part(count).start, band.part(count).stop
    if crop is not None:
        return crop.band((first, stop)), None
    return band_of(grid, (first, stop)), band_of(grid, (count - stop, count - first)) if random_flip else None


def rows_of(crop: Crop | None) -> tuple[int, int] | None:
    """The rows of the grid that a region needs, as (first, stop); None without a region."""
    if crop is None:
        return None
    rows = crop.rows[crop.rows != PADDING]
    return int(rows.min()), int(rows.max()) + 1


class DeviceCrop:
    """Cuts a region out of its rows (…, h, W) on a device; NaN where the region reaches beyond the grid.

    The result may be a view.
    """

    def __init__(self, crop: Crop, device: torch.device) -> None:
        first, _ = rows_of(crop) or (0, 0)
        self._rows = _places(np.maximum(crop.rows - first, 0), device)
        self._columns = _places(np.maximum(crop.columns, 0), device)
        self._padding_HW = torch.as_tensor(crop.padding, device=device) if crop.padding.any() else None

    def __call__(self, fields: Tensor) -> Tensor:
        cropped = _taken(_taken(fields, -2, self._rows), -1, self._columns)
        return cropped if self._padding_HW is None else cropped.masked_fill(self._padding_HW, torch.nan)


def _places(numbers: NDArray[np.integer], device: torch.device) -> range | Tensor:
    """Numbers of rows or columns; neighbours, as those of a band are, as a range."""
    if (np.diff(numbers) == 1).all():
        return range(int(numbers[0]), int(numbers[-1]) + 1)
    return torch.as_tensor(numbers, device=device)


def _taken(fields: Tensor, dim: int, places: range | Tensor) -> Tensor:
    """These rows or columns; of a range a view, because copying whole micro-batches takes time."""
    if isinstance(places, range):
        return fields.narrow(dim, places.start, len(places))
    return fields.index_select(dim, places)
