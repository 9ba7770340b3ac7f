"""Regions cut out of fields on a device: the cells of the crop; a view where they are neighbours."""

import numpy as np
import pytest
import torch

from climax_hpc.data.device_crop import DeviceCrop, rows_of
from climax_hpc.fields.grid import regular_grid
from climax_hpc.fields.regions import PADDING, Crop

GRID = regular_grid(30.0)  # 6 × 12 cells
FIELDS = torch.arange(2 * 6 * 12.0).view(2, 6, 12)


@pytest.mark.parametrize(
    ("rows", "columns", "is_view"),
    [
        ([2, 3, 4], range(12), True),
        ([2], [5, 6], True),
        (range(6), [11, 0, 1], False),
        ([4, 3], range(12), False),
        ([PADDING, 0, 1], range(12), False),
    ],
)
def test_neighbouring_cells_are_not_copied(rows: list[int], columns: list[int], is_view: bool) -> None:
    crop = Crop(rows=np.array(rows), columns=np.array(columns), grid=GRID)
    first, stop = rows_of(crop) or (0, 0)
    cut = DeviceCrop(crop, torch.device("cpu"))(FIELDS[:, first:stop])
    np.testing.assert_array_equal(cut.numpy(), crop.apply(FIELDS.numpy()))
    assert (cut.untyped_storage().data_ptr() == FIELDS.untyped_storage().data_ptr()) == is_view
