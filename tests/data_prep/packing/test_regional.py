"""Regional data sets from global or regional files, on their own or a regular grid, never wrapped around."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from climax_hpc.cli import main
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.packing.target_grid import TargetGrid, target_of
from climax_hpc.data_prep.sources.orientation import orient
from climax_hpc.errors import UserError
from climax_hpc.fields.grid import regular_grid
from climax_hpc.fields.regions import REGIONS, crop_to, region_of
from climax_hpc.shards.manifest import read_manifest

from ..packed import NAME, physical, static

Settings = Callable[..., PackConfig]


@pytest.mark.parametrize("region", ["NorthAmerica", "Africa", "Australia"])
@pytest.mark.parametrize("regrid", ["conservative", "bilinear"])
def test_a_region_has_the_same_cells_as_the_globe(
    cmip6: Any, settings: Settings, tmp_path: Path, region: str, regrid: str
) -> None:
    cmip6("tas", lat=np.arange(82.5, -90, -15))  # rows from north to south: fault 1 of the released ClimaX
    cmip6("orog", table="fx", frequency="fx")
    common: dict[str, Any] = {"grid_spacing_deg": 5.625, "regrid": regrid}
    globe = pack(settings(output=str(tmp_path / "globe"), **common)).parent
    cut = pack(settings(output=str(tmp_path / "cut"), region=region, **common)).parent
    crop = crop_to(regular_grid(5.625), REGIONS[region])
    assert np.allclose(physical(cut), crop.apply(physical(globe)), rtol=1e-6)
    grid = read_manifest(cut).sources[NAME].grid
    assert np.allclose(grid["lat"], crop.grid.lat)
    assert np.allclose(grid["lon"], crop.grid.lon)
    statics = static(cut)
    assert np.allclose(statics["latitude"], crop.grid.lat[:, None])
    assert statics["orography"].shape == crop.grid.shape


def test_padding_to_the_patch_size_is_missing_and_does_not_count(
    cmip6: Any, settings: Settings, tmp_path: Path
) -> None:
    cmip6("tas")
    plain = pack(settings(output=str(tmp_path / "a"), grid_spacing_deg=5.625, region="NorthAmerica")).parent
    padded = pack(settings(output=str(tmp_path / "b"), grid_spacing_deg=5.625, region="NorthAmerica", pad_to=4)).parent
    assert physical(plain).shape == (8, 1, 9, 14)
    fields = physical(padded)
    assert fields.shape == (8, 1, 12, 16)
    assert np.allclose(fields[:, :, :9, :14], physical(plain), rtol=1e-6)
    assert np.isnan(fields[:, :, 9:]).all()
    assert np.isnan(fields[:, :, :, 14:]).all()
    of = [read_manifest(folder).sources[NAME].statistics["2m_temperature"] for folder in (plain, padded)]
    assert (of[0]["mean"], of[0]["std"]) == (of[1]["mean"], of[1]["std"])


@pytest.mark.parametrize("west", [-10.0, 350.0, 170.0])
def test_a_regional_file_keeps_its_own_cells(cmip6: Any, settings: Settings, tmp_path: Path, west: float) -> None:
    """Across Greenwich in either convention of longitudes, and across the dateline."""
    lat, lon = np.arange(30.0, 60, 2), west + np.arange(0, 20, 2.0)
    values = 250 + np.random.default_rng(0).standard_normal((8, 15, 10))
    cmip6("tas", lat=lat, lon=np.where(lon >= 360, lon - 360, lon), values=values, bounds=False)
    box = [25, 65, west if west < 360 else west - 360, (west + 21) % 360]
    folder = pack(settings(region=box, grid_spacing_deg=None)).parent
    assert np.allclose(physical(folder)[:, 0], values, rtol=1e-6)
    grid = read_manifest(folder).sources[NAME].grid
    assert np.allclose(np.diff(grid["lon"]), 2)
    assert np.allclose(np.mod(grid["lon"], 360), np.mod(lon, 360))
    assert (grid["lat_bnds"][0][0], grid["lat_bnds"][-1][1]) == (29, 59)


def test_regional_files_are_refused_without_a_region(cmip6: Any, settings: Settings) -> None:
    cmip6("tas", lat=np.arange(30.0, 60), lon=np.arange(0.0, 40))
    with pytest.raises(UserError, match=r"it covers only 30\.0…59\.0° N, 0\.0…39\.0° E; .*or set a region"):
        pack(settings())
    with pytest.raises(UserError, match=r"region: Australia is outside TEST-1_.*, which covers 29\.5 … 59\.5° N"):
        pack(settings(region="Australia"))


@pytest.mark.parametrize("regrid", ["conservative", "bilinear"])
def test_a_part_of_the_globe_is_regridded_without_wrapping_around(regrid: str) -> None:
    """A field that is 1 in the west and 2 in the east would mix at the seam of a periodic grid."""
    lat, lon = np.arange(30.5, 60), np.arange(-9.5, 30)
    source = orient(lat, lon, None, None, regional=True).grid
    field = np.broadcast_to(np.where(lon < 10, 1.0, 2.0), (1, 30, 40))
    crop = crop_to(regular_grid(2.5), region_of([30, 65, -20, 40]))
    target = TargetGrid(grid=crop.grid, rows=np.ones(len(crop.rows), bool), columns=np.ones(len(crop.columns), bool))
    out = target.mapping(source, regrid)(field)[0]
    covered = ~np.isnan(out)
    rows, columns = crop.grid.lat, crop.grid.lon
    assert covered.any(axis=1).tolist() == [lat < 60 for lat in rows]
    if regrid == "bilinear":
        assert covered.any(axis=0).tolist() == [-9.5 <= lon <= 29.5 for lon in columns]
    else:
        assert covered.any(axis=0).tolist() == [lon + 1.25 > -10 and lon - 1.25 < 30 for lon in columns]
    assert out[covered].min() >= 1 - 1e-12
    assert out[covered].max() <= 2 + 1e-12
    assert np.allclose(out[:, columns > 12][covered[:, columns > 12]], 2)
    assert np.allclose(out[:, columns < 8][covered[:, columns < 8]], 1)


def test_conservative_regridding_of_a_part_keeps_the_mean_where_cells_nest() -> None:
    lat, lon = np.arange(30.25, 60, 0.5), np.arange(-9.75, 30, 0.5)
    source = orient(lat, lon, None, None, regional=True).grid
    field = np.random.default_rng(1).standard_normal((1, len(lat), len(lon)))
    target = target_of(
        PackConfig(input="i", output="o", grid_spacing_deg=2.0, region=[30, 60, 0, 30]), "test", [source]
    )
    out = target.mapping(source, "conservative")(field)[0]
    assert target.grid.lat_bnds[0, 0] == 30
    assert np.allclose(target.grid.lon_bnds[0], [-1, 1])
    area = np.diff(np.sin(np.deg2rad(source.lat_bnds)), axis=1)
    i = int(np.argmin(abs(lon - 1.25)))
    expected = (field[0, :4, i : i + 4].mean(axis=1) * area[:4, 0]).sum() / area[:4].sum()
    assert out[0, 1] == pytest.approx(expected, rel=1e-9)


def test_several_native_grids_are_refused(cmip6: Any, settings: Settings) -> None:
    cmip6("tas")
    cmip6("psl", lat=np.linspace(-90, 90, 13), bounds=False)
    with pytest.raises(UserError, match=r"its variables have several grids \(12×24, 13×24\).*set grid_spacing_deg"):
        pack(settings(grid_spacing_deg=None))
    assert pack(settings(grid_spacing_deg=22.5)).is_file()


def test_the_native_grid_is_kept_to_the_bit(cmip6: Any, settings: Settings) -> None:
    values = 280 + np.float32(np.random.default_rng(0).standard_normal((8, 13, 24)))
    cmip6("tas", lat=np.linspace(-90, 90, 13), values=values, bounds=False)
    folder = pack(settings(grid_spacing_deg=None)).parent
    assert np.allclose(physical(folder)[:, 0], values, rtol=0, atol=2e-5)
    assert read_manifest(folder).sources[NAME].grid["lat"] == np.linspace(-90, 90, 13).tolist()


def test_regions_on_the_command_line(cmip6: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cmip6("tas")
    common = ["pack", "--input", str(cmip6.root), "--grid_spacing_deg", "11.25"]
    main([*common, "--output", str(tmp_path / "a"), "--region", "Europe"])
    main([*common, "--output", str(tmp_path / "b"), "--region", "[30, 65, 0, 40]"])
    grids = [read_manifest(tmp_path / name).sources[NAME].grid for name in "ab"]
    assert grids[0] == grids[1]
    for arguments, message in (
        (["--region", "Atlantis"], "region: unknown region 'Atlantis'; use "),
        (["--region", "[65, 30, 0, 40]"], "south 65° and north 30° must ascend"),
        (["--pad_to", "4"], "pad_to: 4 pads a region, but region is not set"),
        (["--region", "Europe", "--pad_to", "0"], "pad_to: 0 is below 1"),
    ):
        with pytest.raises(SystemExit):
            main([*common, "--output", str(tmp_path / "c"), *arguments])
        assert message in capsys.readouterr().err
