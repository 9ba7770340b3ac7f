"""Regions on grids of every orientation: the cells in the box, never their mirror image; padding."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from climax_hpc.errors import UserError
from climax_hpc.fields.grid import Grid, regular_grid
from climax_hpc.fields.regions import PADDING, REGIONS, Region, crop_to, region_indices, region_of


def turned(grid: Grid, flip: bool, roll: int) -> Grid:
    """The same cells with descending latitudes, and columns that start elsewhere, numbered from -180."""
    order = slice(None, None, -1 if flip else 1)
    lon, bnds = np.roll(grid.lon, roll), np.roll(grid.lon_bnds, roll, axis=0)
    turn = np.where(lon >= 180, -360.0, 0.0) if roll else np.zeros(len(lon))
    return Grid(lat=grid.lat[order], lat_bnds=grid.lat_bnds[order], lon=lon + turn, lon_bnds=bnds + turn[:, None])


def brute_force(grid: Grid, region: Region) -> set[tuple[float, float]]:
    """(latitude, longitude) of the centres in the region, cell by cell."""
    found = set()
    for lat in grid.lat:
        for lon in grid.lon:
            turns = (lon - 720, lon - 360, lon, lon + 360, lon + 720)
            east = region.east if region.east > region.west else region.east + 360
            if region.south <= lat <= region.north and any(region.west <= x <= east for x in turns):
                found.add((float(lat), float(lon % 360)))
    return found


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("roll", [0, 32, 5])
@pytest.mark.parametrize("region", REGIONS.values(), ids=str)
def test_named_regions_hold_the_cells_of_their_box(region: Region, flip: bool, roll: int) -> None:
    grid = turned(regular_grid(5.625), flip, roll)
    rows, columns = region_indices(grid, region)
    chosen = {(float(lat), float(lon % 360)) for lat in grid.lat[rows] for lon in grid.lon[columns]}
    assert chosen == brute_force(grid, region)
    assert len(chosen) == len(rows) * len(columns)


@pytest.mark.parametrize("flip", [False, True])
def test_north_america_lies_in_the_north(flip: bool) -> None:
    """The released ClimaX mirrors the mask: with ascending latitudes it takes -64.7 … -25.3°."""
    grid = turned(regular_grid(5.625), flip, 0)
    lat_HW = np.repeat(grid.lat[:, None], len(grid.lon), axis=1)
    cut = crop_to(grid, REGIONS["NorthAmerica"])
    assert np.array_equal(np.unique(cut.apply(lat_HW)), np.sort(cut.grid.lat))
    assert (cut.grid.lat.min(), cut.grid.lat.max()) == (19.6875, 64.6875)
    assert (cut.grid.lon[0], cut.grid.lon[-1]) == (225.0, 298.125)


@given(
    edges=st.tuples(st.integers(-90, 85), st.integers(3, 90), st.integers(-180, 355), st.integers(2, 359)),
    flip=st.booleans(),
    roll=st.integers(0, 71),
)
def test_any_box_holds_the_cells_that_lie_in_it(edges: tuple[int, int, int, int], flip: bool, roll: int) -> None:
    south, height, west, width = edges
    east = west + width if west + width <= 360 else west + width - 360
    region = Region(name="box", south=south, north=min(90, south + height), west=west, east=east)
    grid = turned(regular_grid(5.0), flip, roll)
    expected = brute_force(grid, region)
    rows = {lat for lat, _ in expected}
    if len(rows) < 2 or len(expected) < 2 * len(rows):
        with pytest.raises(UserError, match=r"holds \d+ rows and \d+ columns of the grid; choose a larger"):
            region_indices(grid, region)
        return
    cut = crop_to(grid, region)
    assert {(float(a), float(b % 360)) for a in cut.grid.lat for b in cut.grid.lon} == expected
    assert (np.diff(cut.grid.lon) == 5).all()  # eastward without a jump, across Greenwich and the dateline
    assert np.allclose(cut.grid.lon_bnds.mean(axis=1), cut.grid.lon)
    assert np.array_equal(cut.grid.lon % 360, grid.lon[cut.columns] % 360)


def test_a_region_over_greenwich_and_one_over_the_dateline_are_contiguous() -> None:
    grid = regular_grid(5.625)
    africa = crop_to(grid, REGIONS["Africa"])
    assert (africa.grid.lon[0], africa.grid.lon[-1]) == (-16.875, 50.625)
    assert africa.columns[:4].tolist() == [61, 62, 63, 0]
    pacific = crop_to(grid, region_of([-30, 30, 150, -120]))
    assert (pacific.grid.lon[0], pacific.grid.lon[-1]) == (151.875, 236.25)
    seam = crop_to(turned(grid, True, 32), region_of([-30, 30, 150, -120]))
    assert np.array_equal(np.mod(seam.grid.lon, 360), pacific.grid.lon)


@pytest.mark.parametrize("flip", [False, True])
def test_padding_to_the_patch_size_is_missing_and_stays_on_the_sphere(flip: bool) -> None:
    grid = turned(regular_grid(5.625), flip, 0)
    fields = np.arange(3 * 32 * 64, dtype=np.float32).reshape(3, 32, 64)
    for name, region in REGIONS.items():
        plain, padded = crop_to(grid, region), crop_to(grid, region, 4)
        cut = padded.apply(fields)
        assert cut.dtype == np.float32
        assert cut.shape[1] % 4 == cut.shape[2] % 4 == 0, name
        assert cut.shape[1:] == padded.grid.shape
        kept = ~np.isnan(cut).all(axis=(0, 2)), ~np.isnan(cut).all(axis=(0, 1))
        assert np.array_equal(cut[:, kept[0]][:, :, kept[1]], plain.apply(fields))
        assert int(np.isnan(cut[0]).sum()) == cut[0].size - plain.apply(fields)[0].size
        assert abs(padded.grid.lat_bnds).max() <= 90 + 1e-9
        assert np.allclose(abs(np.diff(padded.grid.lat)), 5.625)
        assert np.allclose(np.diff(padded.grid.lon), 5.625)
        assert np.allclose(padded.grid.lat_bnds.mean(axis=1), padded.grid.lat)
        assert (padded.rows == PADDING).sum() == -len(plain.rows) % 4


def test_padding_goes_to_the_other_side_at_a_pole_and_is_refused_without_room() -> None:
    grid = regular_grid(180 / 33)
    arctic = crop_to(grid, region_of([60, 90, 0, 90]), 4)
    assert arctic.rows[0] == PADDING
    assert arctic.rows[-1] == 32
    with pytest.raises(UserError, match="33 rows from pole to pole are not a multiple of the patch size"):
        crop_to(grid, region_of([-90, 90, 0, 90]), 4)
    with pytest.raises(UserError, match="66 columns around the globe are not a multiple of the patch size 4"):
        crop_to(grid, region_of([-60, 60, 0, 360]), 4)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("Eruope", r"region: unknown region 'Eruope'; use Europe or \[south"),
        ([1.0, 2.0, 3.0], r"region: \[1.0, 2.0, 3.0\] is not a box; give \[south"),
        ([40, 30, 0, 10], r"region box: south 40° and north 30° must ascend within ±90°"),
        ([-95, 30, 0, 10], "must ascend within ±90°"),
        ([float("nan"), 30, 0, 10], "must ascend within ±90°"),
        ([0, 30, 10, 10], r"region box: west 10°, east 10°: give two longitudes in -180 … 360"),
        ([0, 30, 10, 400], "give two longitudes in -180 … 360"),
    ],
)
def test_invalid_regions_are_refused(chosen: str | list[float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        region_of(chosen)


def test_a_region_smaller_than_two_cells_is_refused() -> None:
    with pytest.raises(UserError, match=r"region box: .* holds 1 rows and 1 columns of the grid; choose a larger"):
        region_indices(regular_grid(5.625), region_of([1, 5, 4, 9]))
    europe = REGIONS["Europe"]
    assert replace(europe, west=-180, east=180).width_deg == 360
