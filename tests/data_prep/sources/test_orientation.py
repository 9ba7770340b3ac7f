"""Orientation of grids: ascending order for any order of the input, stated edges, and grids that are refused."""

import numpy as np
import pytest

from climax_hpc.data_prep.sources.coordinates import Unusable
from climax_hpc.data_prep.sources.orientation import orient
from climax_hpc.fields.grid import regular_grid

LAT, LON = np.arange(-82.5, 90, 15), np.arange(0, 360, 15.0)


@pytest.mark.parametrize("turn", [0.0, -180.0])
@pytest.mark.parametrize("down", [False, True])
def test_fields_are_turned_to_ascending_latitudes_from_longitude_0(turn: float, down: bool) -> None:
    grid = regular_grid(15.0)
    lon = np.sort(np.where(grid.lon >= 360 + turn, grid.lon - 360, grid.lon)) if turn else grid.lon
    lat = grid.lat[::-1] if down else grid.lat
    edges_lat = np.stack([lat - 7.5, lat + 7.5], axis=-1)
    edges_lon = np.stack([lon - 7.5, lon + 7.5], axis=-1)
    field = lat[:, None] * 1000 + np.mod(lon, 360)[None, :]
    for bounds in ((edges_lat, edges_lon), (None, None)):
        turned = orient(lat, lon, *bounds)
        assert turned.grid.same_as(grid)
        assert np.array_equal(turned.apply(field), grid.lat[:, None] * 1000 + grid.lon[None, :])


def test_inconsistent_edges_are_replaced_by_midpoints() -> None:
    gaps = np.stack([LAT - 7, LAT + 7], axis=-1)
    shifted = np.stack([LAT + 1, LAT + 16], axis=-1)
    expected = orient(LAT, LON, None, None).grid
    for edges in (gaps, shifted):
        assert orient(LAT, LON, edges, None).grid.same_as(expected)


def test_a_regional_grid_keeps_its_first_column() -> None:
    lat, lon = np.arange(59.0, 29, -1), np.mod(np.arange(-20, 20.0), 360)
    found = orient(lat, lon, None, None, regional=True)
    assert (found.flip, found.roll) == (True, 0)
    assert (found.grid.lat[0], found.grid.lon[0], found.grid.lon[-1]) == (30, -20, 19)


@pytest.mark.parametrize(
    ("lat", "lon", "message"),
    [
        (np.array([0.0, np.nan]), LON, "are NaN, or fewer than two"),
        (LAT[:1], LON, "are NaN, or fewer than two"),
        (LAT[[0, 2, 1]], LON, "latitudes are not monotonic"),
        (LAT * 1.2, LON, "latitudes are not monotonic within ±90°"),
        (LAT, LON[[0, 2, 1, 3]], "longitudes do not run eastward once around the globe"),
        (LAT, np.arange(0, 390, 15.0), "longitudes hold one meridian twice"),
        (np.arange(30, 60.0), np.arange(0, 40.0), r"covers only 30\.0…59\.0° N, 0\.0…39\.0° E; .*set a region"),
    ],
)
def test_unusable_grids_are_refused(lat: np.ndarray, lon: np.ndarray, message: str) -> None:
    with pytest.raises(Unusable, match=message):
        orient(lat, lon, None, None)


def test_regional_longitudes_that_run_westward_are_refused() -> None:
    with pytest.raises(Unusable, match="longitudes do not run eastward; regrid it"):
        orient(np.arange(30, 60.0), np.array([10.0, 30, 20]), None, None, regional=True)


@pytest.mark.parametrize("zero", [-1e-6, 359.9999, -5e-4, 360.00005])
def test_rounding_at_longitude_0_is_the_same_grid(zero: float) -> None:
    lon = LON.copy()
    lon[0] = zero
    found = orient(LAT, lon, None, None)
    assert found.roll == 0
    assert found.grid.same_centres(regular_grid(15.0))


def test_a_part_across_the_dateline_starts_at_its_western_end() -> None:
    lat = np.arange(-30.0, 31, 2)
    lon = np.concatenate([np.arange(-180.0, -159, 2), np.arange(160.0, 180, 2)])
    field = np.mod(lon, 360) * np.ones((len(lat), 1))
    found = orient(lat, lon, None, None, regional=True)
    assert (found.grid.lon[0], found.grid.lon[-1]) == (160, 200)
    assert np.array_equal(found.apply(field)[0], found.grid.lon)
    assert np.diff(found.grid.lon_bnds).max() == 2


@pytest.mark.parametrize("regional", [False, True])
@pytest.mark.parametrize("axis", ["latitudes", "longitudes"])
def test_gaps_are_refused(axis: str, regional: bool) -> None:
    keep_rows = np.abs(LAT - 30) > 8 if axis == "latitudes" else np.full(len(LAT), True)
    keep_columns = np.abs(LON - 90) > 20 if axis == "longitudes" else np.full(len(LON), True)
    lon = LON[keep_columns][:-6] if regional else LON[keep_columns]
    with pytest.raises(Unusable, match=f"its {axis} have a gap between"):
        orient(LAT[keep_rows], lon, None, None, regional=regional)


def test_grids_of_varying_spacing_have_no_gaps() -> None:
    gaussian = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(32)[0]))
    stretched = 180 + 170 * np.sinh(np.linspace(-2, 2, 60)) / np.sinh(2)
    orient(gaussian, LON, None, None)
    orient(gaussian, stretched, None, None, regional=True)
