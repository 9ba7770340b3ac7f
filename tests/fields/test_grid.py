"""Grids: the ClimaX grids, whether a grid is global, JSON there and back, latitude weights."""

import json

import numpy as np
import pytest

from climax_hpc.errors import UserError
from climax_hpc.fields.grid import Grid, latitude_weights, regular_grid
from climax_hpc.fields.regions import REGIONS, crop_to


def test_the_grid_of_climax_at_5_625_degrees() -> None:
    grid = regular_grid(5.625)
    assert grid.shape == (32, 64)
    assert (grid.lat[0], grid.lat[-1], grid.lon[0], grid.lon[-1]) == (-87.1875, 87.1875, 0, 354.375)


@pytest.mark.parametrize("spacing", [7.0, 0.0, -1.0, 180.0])
def test_a_spacing_that_does_not_divide_the_globe(spacing: float) -> None:
    with pytest.raises(UserError, match="does not divide 180°; use for example"):
        regular_grid(spacing)


def test_only_a_whole_circle_of_cells_is_global() -> None:
    grid = regular_grid(5.625)
    assert grid.is_global
    assert crop_to(grid, REGIONS["Arctic"]).grid.is_global
    assert not crop_to(grid, REGIONS["Europe"]).grid.is_global


def test_json_there_and_back() -> None:
    grid = regular_grid(11.25)
    again = Grid.from_dict(json.loads(json.dumps(grid.to_dict())))
    assert all(np.array_equal(getattr(again, name), getattr(grid, name)) for name in grid.to_dict())


def test_latitude_weights_are_cell_areas_or_cosines() -> None:
    grid = regular_grid(5.625)
    cell_H, cos_H = (latitude_weights(grid, kind) for kind in ("cell", "cos"))
    np.testing.assert_allclose([cell_H.mean(), cos_H.mean()], 1.0)
    # sin(b) - sin(a) = 2 cos((a+b)/2) sin((b-a)/2): on a regular grid the two differ by a constant factor.
    np.testing.assert_allclose(cell_H, cos_H, rtol=1e-12)
    with pytest.raises(UserError, match="'area': use 'cell' or 'cos'"):
        latitude_weights(grid, "area")
