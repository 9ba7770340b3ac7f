"""Domains: whole patches of a global grid around a region, on grids of every orientation, never mirrored."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from climax_hpc.errors import UserError
from climax_hpc.fields.grid import Grid, regular_grid
from climax_hpc.fields.regional_grid import Domain
from climax_hpc.fields.regions import PADDING, REGIONS, Region, crop_to, region_of


def turned(grid: Grid, flip: bool, roll: int) -> Grid:
    """The same cells with descending latitudes, and columns that start elsewhere, numbered from -180."""
    order = slice(None, None, -1 if flip else 1)
    lon, bnds = np.roll(grid.lon, roll), np.roll(grid.lon_bnds, roll, axis=0)
    turn = np.where(lon >= 180, -360.0, 0.0)
    return Grid(lat=grid.lat[order], lat_bnds=grid.lat_bnds[order], lon=lon + turn, lon_bnds=bnds + turn[:, None])


def places(grid: Grid) -> np.ndarray:
    """Latitude and longitude modulo 360 (2, H, W) of every cell."""
    return np.stack(np.meshgrid(grid.lat, np.mod(grid.lon, 360), indexing="ij"))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("patch", [2, 4])
@pytest.mark.parametrize("region", REGIONS.values(), ids=str)
def test_a_domain_is_the_whole_patches_that_hold_the_region(region: Region, patch: int, flip: bool) -> None:
    globe = turned(regular_grid(5.625), flip, 0)
    domain = Domain(region=region, globe=globe, patch=patch)
    assert {len(axis) % patch for axis in (domain.rows, domain.columns)} == {0}
    at = places(globe)[:, domain.rows[:, None], domain.columns]
    assert np.array_equal(at, places(domain.grid))
    inside = (at[0] >= region.south) & (at[0] <= region.north)
    inside &= np.mod(at[1] - region.west, 360) <= region.width_deg
    assert np.array_equal(domain.inside_HW, inside)
    assert domain.inside_HW.sum() == crop_to(globe, region).grid.lat.size * crop_to(globe, region).grid.lon.size
    assert np.allclose(np.diff(domain.grid.lon), 5.625)
    for index in (inside.any(axis=1), inside.any(axis=0)):  # no patch without a cell of the region
        assert index.reshape(-1, patch).any(axis=1).all()


@settings(max_examples=25, deadline=None)
@given(
    box=st.tuples(st.integers(-90, 60), st.integers(15, 60), st.integers(-180, 340), st.integers(15, 340)),
    flip=st.booleans(),
    roll=st.integers(0, 63),
)
def test_the_crop_of_a_grid_in_another_order_is_the_same(box: tuple[int, int, int, int], flip: bool, roll: int) -> None:
    south, height, west, width = box
    region = region_of([south, min(90, south + height), west, (west + width + 180) % 360 - 180])
    globe = regular_grid(5.625)
    domain = Domain(region=region, globe=globe, patch=4)
    other = turned(globe, flip, roll)
    assert np.array_equal(domain.crop(other, "x").apply(places(other)), places(domain.grid))
    again = Domain.from_dict(domain.to_dict(), 4)
    assert np.array_equal(again.patch_indices, domain.patch_indices)
    assert np.array_equal(again.inside_HW, domain.inside_HW)


def test_patches_are_those_of_the_global_grid() -> None:
    """Across the first meridian: patch columns 15, then 0 to 2; patch rows 2 to 5 of 16 columns each."""
    domain = Domain(region=REGIONS["Africa"], globe=regular_grid(5.625), patch=4)
    columns = [15, 0, 1, 2]
    assert domain.patch_indices.tolist() == [16 * row + column for row in (2, 3, 4, 5) for column in columns]
    assert domain.grid.lon[0] == -22.5
    arctic = Domain(region=REGIONS["Arctic"], globe=regular_grid(5.625), patch=4)
    assert arctic.patch_indices.tolist() == list(range(16 * 6, 16 * 8))


def test_regional_data_are_enough_if_they_hold_the_region() -> None:
    globe = regular_grid(5.625)
    domain = Domain(region=REGIONS["Europe"], globe=globe, patch=4)
    crop = domain.crop(crop_to(globe, region_of([30, 65, 0, 40])).grid, "x")
    cells = (crop.rows != PADDING)[:, None] & (crop.columns != PADDING)
    assert np.array_equal(cells, domain.inside_HW)
    with pytest.raises(UserError, match=r"x lacks cells of region Europe, which needs 7 × 8 cells at"):
        domain.crop(crop_to(globe, region_of([30, 50, 0, 40])).grid, "x")
    with pytest.raises(UserError, match=r"data.region Europe: the region is cut out of a global grid, but the data"):
        Domain(region=REGIONS["Europe"], globe=crop_to(globe, region_of([-40, 70, 0, 90]), 4).grid, patch=4)
    with pytest.raises(UserError, match="is not a multiple of patch size 5"):
        Domain(region=REGIONS["Europe"], globe=globe, patch=5)
