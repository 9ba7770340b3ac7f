"""Regridding: areas and impulses preserved, constants exact, missing values by weights, equal to cdo if installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import netCDF4
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from climax_hpc.data_prep.packing.regrid import regridder
from climax_hpc.data_prep.sources.orientation import orient
from climax_hpc.fields.grid import Grid, latitude_weights, regular_grid


def gaussian(rows: int) -> Grid:
    """A Gaussian grid without stated edges."""
    lat = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(rows)[0]))
    return orient(lat, np.arange(2 * rows) * 180.0 / rows, None, None).grid


@st.composite
def irregular_grids(draw: st.DrawFn) -> Grid:
    """Rows and columns of uneven width, as midpoints of ascending centres."""
    rows, columns = draw(st.integers(3, 23)), draw(st.integers(3, 31))
    widths = [draw(st.lists(st.floats(1, 1.4), min_size=n, max_size=n)) for n in (rows, columns)]
    lat = -90 + 180 * (np.cumsum(widths[0]) - 0.5) / np.sum(widths[0])
    lat = np.clip(lat, -89.5, 89.5) if draw(st.booleans()) else np.linspace(-90, 90, rows)
    lon = 360 * (np.cumsum(widths[1]) - widths[1][0]) / np.sum(widths[1]) + draw(st.floats(-180, 180))
    return orient(np.sort(lat), lon, None, None).grid


def area_mean(field: np.ndarray, grid: Grid) -> float:
    """Mean by true cell area."""
    width = grid.lon_bnds[:, 1] - grid.lon_bnds[:, 0]
    return float(latitude_weights(grid) @ field @ width / width.sum() / len(grid.lat))


@settings(max_examples=60, deadline=None)
@given(source=irregular_grids(), target=irregular_grids())
def test_conservative_keeps_the_area_mean_on_any_pair_of_grids(source: Grid, target: Grid) -> None:
    field = np.random.default_rng(0).standard_normal(source.shape) + 5
    out = regridder(source, target, "conservative")(field[None])[0]
    # Overlaps below 1e-10 of a cell are dropped, hence not to the last bit.
    assert area_mean(out, target) == pytest.approx(area_mean(field, source), abs=1e-8)


@settings(max_examples=40, deadline=None)
@given(source=irregular_grids(), target=irregular_grids(), method=st.sampled_from(["conservative", "bilinear"]))
def test_a_constant_is_exact_and_missing_values_spread_no_further_than_needed(
    source: Grid, target: Grid, method: str
) -> None:
    regrid = regridder(source, target, method)
    constant = np.full((1, *source.shape), 3.25)
    assert np.allclose(regrid(constant), 3.25, rtol=1e-14, atol=0)
    holes = np.random.default_rng(1).random(source.shape) < 0.6
    constant[0, holes] = np.nan
    out = regrid(constant)[0]
    weight = regrid.rows.dense(source.shape[0]) @ (~holes).astype(float) @ regrid.columns.dense(source.shape[1]).T
    if not regrid.identity:
        assert np.array_equal(np.isnan(out), weight == 0)
    assert np.allclose(out[~np.isnan(out)], 3.25, rtol=1e-12, atol=0)


@pytest.mark.parametrize("rows", [32, 45, 64])
@pytest.mark.parametrize("row", [0, -1])
def test_an_impulse_at_a_pole_is_conserved(rows: int, row: int) -> None:
    source, target = gaussian(rows), regular_grid(5.625)
    field = np.zeros(source.shape)
    field[row, 7] = 1.0
    out = regridder(source, target, "conservative")(field[None])[0]
    assert area_mean(out, target) == pytest.approx(area_mean(field, source), rel=1e-9)


def test_the_same_grid_is_the_identity() -> None:
    grid = regular_grid(5.625)
    field = np.random.default_rng(0).random((2, *grid.shape))
    assert regridder(grid, grid, "conservative")(field) is field


def test_bands_equal_the_two_matrix_products() -> None:
    source, target = gaussian(48), regular_grid(5.625)
    field = np.random.default_rng(0).random((3, *source.shape))
    for method in ("conservative", "bilinear"):
        regrid = regridder(source, target, method)
        dense = regrid.rows.dense(48) @ field @ regrid.columns.dense(96).T
        assert np.allclose(regrid(field), dense, rtol=0, atol=1e-14)


def test_bilinear_is_exact_for_fields_linear_in_latitude_and_periodic_in_longitude() -> None:
    source, target = gaussian(40), regular_grid(5.625)
    field = np.repeat(source.lat[:, None], 80, axis=1)
    out = regridder(source, target, "bilinear")(field[None])[0]
    inner = (target.lat >= source.lat[0]) & (target.lat <= source.lat[-1])
    assert np.allclose(out[inner], target.lat[inner, None], atol=1e-12)
    assert np.allclose(out[0], source.lat[0])  # constant beyond the last row
    wave = np.cos(np.deg2rad(source.lon))[None, :] * np.ones((40, 1))
    out = regridder(source, target, "bilinear")(wave[None])[0]
    assert np.abs(out - np.cos(np.deg2rad(target.lon))).max() < 1e-3  # (4.5°)² / 8, also between 355.5° and 0°


def test_a_field_does_not_depend_on_its_neighbours_in_the_stack() -> None:
    source, target = gaussian(24), regular_grid(11.25)
    fields = np.random.default_rng(0).random((3, *source.shape))
    fields[1, :4] = np.nan
    regrid = regridder(source, target, "conservative")
    assert np.array_equal(regrid(fields)[0], regrid(fields[:1])[0])


@pytest.mark.parametrize("in_runs", [True, False], ids=["one pass", "term by term"])
def test_neither_memory_layout_nor_blocks_change_a_bit(in_runs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "climax_hpc.data_prep.packing.regrid"
    monkeypatch.setattr(f"{module}._NUMBERS_PER_CALL", 1 if in_runs else 1 << 30)
    regrid = regridder(gaussian(24), regular_grid(11.25), "conservative")
    fields = np.random.default_rng(0).random((7, 24, 48)).astype(np.float32)
    fields[2, 3:9, 5] = np.nan
    whole = regrid(fields.astype(np.float64))
    forms = {
        "float32": fields,
        "rows backwards": fields[:, ::-1].copy()[:, ::-1],
        "columns first": np.asfortranarray(fields.astype(np.float64)),
        "other byte order": fields.astype(">f8"),
        "part of an array": np.pad(fields.astype(np.float64), 3)[3:-3, 3:-3, 3:-3],
    }
    for row_bytes, block_bytes in ((1 << 18, 1 << 19), (1, 1), (1, 2_000), (900, 900), (900, 3_000)):
        monkeypatch.setattr(f"{module}._ROW_BYTES", row_bytes)
        monkeypatch.setattr(f"{module}._BLOCK_BYTES", block_bytes)
        for name, form in forms.items():
            assert np.array_equal(regrid(form), whole, equal_nan=True), (name, row_bytes, block_bytes)
    assert np.array_equal(regrid(fields[3:4]), whole[3:4])


def test_both_ways_to_add_rows_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = np.random.default_rng(0).random((3, 24, 48))
    for method, target in (("conservative", regular_grid(11.25)), ("bilinear", regular_grid(2.8125))):
        regrid = regridder(gaussian(24), target, method)
        found = []
        for numbers in (1, 1 << 30):
            monkeypatch.setattr("climax_hpc.data_prep.packing.regrid._NUMBERS_PER_CALL", numbers)
            found.append(regrid(fields))
        # Where a processor multiplies and adds in one instruction, the last digit may differ.
        np.testing.assert_allclose(found[0], found[1], rtol=1e-14)


def test_the_number_of_threads_does_not_change_a_bit() -> None:
    script = """
import numpy as np, xxhash
from climax_hpc.data_prep.sources.orientation import orient
from climax_hpc.data_prep.packing.regrid import regridder
from climax_hpc.fields.grid import regular_grid
source = orient(np.linspace(-89.5, 89.5, 180), np.arange(360.0), None, None).grid
fields = np.random.default_rng(0).random((9, 180, 360))
for method in ("conservative", "bilinear"):
    print(xxhash.xxh3_64_hexdigest(regridder(source, regular_grid(5.625), method)(fields).tobytes()))
"""
    found = set()
    for threads in "124":
        threaded = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
        done = subprocess.run(
            [sys.executable, "-c", script], env=os.environ | threaded, capture_output=True, text=True, check=True
        )
        found.add(done.stdout)
    assert len(found) == 1


@pytest.mark.skipif(shutil.which("cdo") is None, reason="cdo is not installed (apt-get install cdo)")
@pytest.mark.parametrize("operator", ["remapcon", "remapbil"])
@pytest.mark.parametrize("source", [gaussian(32), gaussian(48), regular_grid(7.5)], ids=["N16", "N24", "7.5deg"])
def test_equals_cdo_for_any_orientation_of_the_grid(tmp_path: Path, operator: str, source: Grid) -> None:
    target = regular_grid(5.625)
    method = "conservative" if operator == "remapcon" else "bilinear"
    field = np.random.default_rng(0).random(source.shape).astype(np.float32).astype(float)
    for down in (False, True):
        for turned in (False, True):
            (tmp_path / "out.nc").unlink(missing_ok=True)
            _write(
                tmp_path / "in.nc", _run_otherwise(source, down, turned), _cells_otherwise(field, source, down, turned)
            )
            _write(tmp_path / "target.nc", target, np.zeros(target.shape))
            files = [str(tmp_path / name) for name in ("target.nc", "in.nc", "out.nc")]
            subprocess.run(["cdo", "-s", "-b", "F64", f"{operator},{files[0]}", *files[1:]], check=True)
            with netCDF4.Dataset(tmp_path / "out.nc") as file:
                theirs = np.ma.filled(file["x"][:], np.nan)
            with netCDF4.Dataset(tmp_path / "in.nc") as file:
                found = orient(*(np.asarray(file[name][:]) for name in ("lat", "lon", "lat_bnds", "lon_bnds")))
                ours = regridder(found.grid, target, method)(found.apply(np.asarray(file["x"][:]))[None])[0]
            if operator == "remapbil":  # beyond the outermost rows cdo extrapolates differently
                inner = (target.lat > source.lat[0]) & (target.lat < source.lat[-1])
                theirs, ours = theirs[inner], ours[inner]
            # Only rounding of double precision (measured: 6e-14 conservative, 5e-15 bilinear).
            assert np.abs(theirs - ours).max() < 1e-12


def _turns(source: Grid) -> np.ndarray:
    """Order of the columns from -180 to 180 degrees."""
    return np.argsort(np.where(source.lon >= 180, source.lon - 360, source.lon), kind="stable")


def _run_otherwise(source: Grid, down: bool, turned: bool) -> Grid:
    """The same cells from north to south, or from -180 to 180 degrees."""
    rows = slice(None, None, -1) if down else slice(None)
    columns = _turns(source) if turned else np.arange(len(source.lon))
    back = np.where(turned & (source.lon[columns] >= 180), 360.0, 0.0)
    return Grid(
        lat=source.lat[rows],
        lon=source.lon[columns] - back,
        lat_bnds=source.lat_bnds[rows],
        lon_bnds=source.lon_bnds[columns] - back[:, None],
    )


def _cells_otherwise(field: np.ndarray, source: Grid, down: bool, turned: bool) -> np.ndarray:
    field = field[:, _turns(source)] if turned else field
    return field[::-1] if down else field


def _write(path: Path, grid: Grid, field: np.ndarray) -> None:
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("bnds", 2)
        for name, kind in (("lat", "latitude"), ("lon", "longitude")):
            centres, edges = getattr(grid, name), getattr(grid, f"{name}_bnds")
            file.createDimension(name, len(centres))
            axis = file.createVariable(name, "f8", (name,))
            unit = "degrees_north" if name == "lat" else "degrees_east"
            axis.setncatts({"standard_name": kind, "units": unit, "bounds": f"{name}_bnds"})
            axis[:] = centres
            file.createVariable(f"{name}_bnds", "f8", (name, "bnds"))[:] = edges
        file.createVariable("x", "f8", ("lat", "lon"))[:] = field
