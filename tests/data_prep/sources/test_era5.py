"""ERA5 as WeatherBench 2 (zarr), from the old and the new Copernicus store (NetCDF), and in real files.

The generated files follow the published layouts: names, order of dimensions, packing, time axes, what is left unsaid.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from climax_hpc.cli import run
from climax_hpc.config.parser import read_config
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.packing.work_units import make_plan
from climax_hpc.errors import UserError
from climax_hpc.shards.manifest import Manifest, read_manifest
from climax_hpc.utils.files import sha256

from .. import packed

Settings = Callable[..., PackConfig]
NAME = "ERA5_reanalysis_r1"
LEVELS = [50, 500, 850, 1000]
SHORT_AND_LONG = {
    "t2m": "2m_temperature",
    "u10": "10m_u_component_of_wind",
    "z": "geopotential",
    "t": "temperature",
    "q": "specific_humidity",
}
CHANNELS = [
    "2m_temperature",
    "10m_u_component_of_wind",
    *(f"{stem}_{level}" for stem in ("geopotential", "temperature", "specific_humidity") for level in (50, 500, 850)),
]


def era5_fields(steps: int = 6, descending: bool = True) -> tuple[dict[str, NDArray[Any]], NDArray[Any], NDArray[Any]]:
    """Fields by short name, surface (T, H, W) or levels (T, L, H, W), with rows at the poles; latitudes, longitudes."""
    rng = np.random.default_rng(3)
    lat, lon = np.linspace(90, -90, 13), np.arange(0, 360, 15.0)
    profile = np.cos(np.deg2rad(lat))[:, None] * 30 + rng.standard_normal((steps, 13, 24))
    levels = np.array(LEVELS, float)[:, None, None]
    fields = {
        "t2m": 260 + profile,
        "u10": profile - 10,
        "z": 9.80665 * (8000 * np.log(1000 / levels) + 10 * profile[:, None]),
        "t": 220 + profile[:, None] * levels / 1000,
        "q": 1e-4 * (1 + abs(profile[:, None])) * levels / 1000,
    }
    if not descending:
        return {k: v[..., ::-1, :] for k, v in fields.items()}, lat[::-1], lon
    return fields, lat, lon


def write_weatherbench(path: Path, zarr_format: int = 2, transposed: bool = False, hours: int = 6) -> None:
    """A store as WeatherBench 2 publishes it; low-resolution stores have longitude before ascending latitude."""
    fields, lat, lon = era5_fields(descending=not transposed)
    horizontal = ("longitude", "latitude") if transposed else ("latitude", "longitude")
    time = np.datetime64("1979-01-01T00") + np.arange(6) * np.timedelta64(hours, "h")
    data = {}
    for short, name in SHORT_AND_LONG.items():
        values = fields[short].astype(np.float32)
        values = values.swapaxes(-1, -2) if transposed else values
        data[name] = (("time", *(("level",) if values.ndim == 4 else ()), *horizontal), values)
    orography = np.maximum(0, 9.80665 * 1000 * np.cos(np.deg2rad(lat)))[:, None] * np.ones(24)
    data["geopotential_at_surface"] = (("latitude", "longitude"), orography.astype(np.float32))
    data["angle_of_sub_gridscale_orography"] = (("latitude", "longitude"), orography.astype(np.float32))
    dataset = xr.Dataset(
        data, {"time": time.astype("datetime64[ns]"), "level": LEVELS, "latitude": lat, "longitude": lon}
    )
    chunks = {name: {"chunks": (2, *dataset[name].shape[1:])} for name in SHORT_AND_LONG.values()}
    dataset.to_zarr(path, zarr_format=zarr_format, encoding=chunks, consolidated=zarr_format == 2)  # type: ignore[call-overload]


def write_copernicus(folder: Path, new: bool, west: float = 0.0) -> None:
    """One file of the surface, one of the levels: the store of 2024 and later (`new`), or the one before, in int16."""
    fields, lat, lon = era5_fields()
    lon = np.where(lon >= 180, lon - 360, lon) if west else lon
    order = np.argsort(lon)
    folder.mkdir(parents=True, exist_ok=True)
    units = {"t2m": "K", "u10": "m s**-1", "z": "m**2 s**-2", "t": "K", "q": "kg kg**-1"}
    for name, members in (("single", ("t2m", "u10")), ("levels", ("z", "t", "q"))):
        with netCDF4.Dataset(folder / f"download_{name}.nc", "w") as file:
            time = "valid_time" if new else "time"
            file.createDimension(time, 6)
            axis = file.createVariable(time, "i8" if new else "i4", (time,))
            hours = 1051896 + 6 * np.arange(6)  # 2020-01-01
            axis.units = "seconds since 1970-01-01" if new else "hours since 1900-01-01 00:00:00.0"
            axis.calendar = "proleptic_gregorian" if new else "gregorian"
            axis[:] = (hours - 613608) * 3600 if new else hours
            level = "pressure_level" if new else "level"
            if name == "levels":
                file.createDimension(level, len(LEVELS))
                at = file.createVariable(level, "f8" if new else "i4", (level,))
                at.units = "hPa" if new else "millibars"
                at[:] = LEVELS
            if new:
                file.createVariable("number", "i8", ())[:] = 0
                file.createVariable("expver", str, (time,))[:] = np.array(["0001"] * 6, dtype=object)
            for coordinate, values in (("latitude", lat), ("longitude", lon[order])):
                file.createDimension(coordinate, len(values))
                file.createVariable(coordinate, "f8" if new else "f4", (coordinate,))[:] = values
            for short in members:
                dimensions = (time, *((level,) if name == "levels" else ()), "latitude", "longitude")
                values = fields[short][..., order]
                if new:
                    variable = file.createVariable(short, "f4", dimensions, fill_value=np.nan, zlib=True)
                else:
                    variable = file.createVariable(short, "i2", dimensions, fill_value=-32767)
                    span = float(np.ptp(values))
                    variable.setncatts({"scale_factor": span / 65000, "add_offset": float(values.min()) + span / 2})
                variable.units = units[short]
                variable[:] = values


def physical(folder: Path, name: str = NAME) -> tuple[Manifest, NDArray[Any]]:
    """The manifest and all steps (T, C, H, W) in registry units."""
    return read_manifest(folder), packed.physical(folder, name)


def expected_fields() -> NDArray[Any]:
    """(T, C, H, W) on the files' own grid, ascending."""
    fields, _, _ = era5_fields(descending=False)
    stacked = [fields["t2m"], fields["u10"], *(fields[n][:, k] for n in ("z", "t", "q") for k in range(3))]
    return np.stack(stacked, axis=1)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_weatherbench_store(settings: Settings, tmp_path: Path, zarr_format: int, transposed: bool) -> None:
    write_weatherbench(tmp_path / "in" / "era5.zarr", zarr_format, transposed)
    manifest, fields = physical(pack(settings(layout="era5", grid_spacing_deg=None)).parent)
    source = manifest.sources[NAME]
    assert source.channels == CHANNELS
    assert source.static == ["orography", "latitude"]
    assert (source.frequency, source.step_hours, source.shards[0].first) == ("6hr", 6.0, "1979-01-01T00:00:00")
    assert np.allclose(fields, expected_fields(), rtol=2e-6, atol=2e-2)
    with h5py.File(tmp_path / "out" / source.shards[0].file) as file:
        assert "era5.zarr/2m_temperature" in {i["file"] for i in json.loads(file.attrs["inputs"])}
        assert json.loads(file.attrs["cell_methods"])["geopotential_500"] == "time: point"
    assert packed.static(tmp_path / "out", NAME)["orography"].max() == pytest.approx(1000, rel=1e-3)  # geopotential / g
    assert [s["reason"] for s in manifest.skipped] == [
        "variable angle_of_sub_gridscale_orography is not in the registry"
    ]


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("west", [0.0, -180.0])
def test_copernicus_netcdf(settings: Settings, tmp_path: Path, new: bool, west: float) -> None:
    write_copernicus(tmp_path / "in", new, west)
    manifest, fields = physical(pack(settings(layout="era5", grid_spacing_deg=None)).parent)
    source = manifest.sources[NAME]
    assert source.channels == CHANNELS
    assert (source.frequency, source.shards[0].first) == ("6hr", "2020-01-01T00:00:00")
    expected = expected_fields()
    step = 0.0 if new else 1 / 65000  # of int16, relative to the range of a packed variable
    for channels in (slice(0, 1), slice(2, 5)):  # geopotential packs its three levels and 1000 hPa into one range
        tolerance = 1.1 * step * float(np.ptp(expected[:, channels])) + 0.02
        assert np.allclose(fields[:, channels], expected[:, channels], rtol=2e-6, atol=tolerance)
    assert source.grid["lat"][0] == -90
    assert source.grid["lat_bnds"][0] == [-90.0, -82.5]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_input_can_be_a_store_or_files_of_one_step_each(settings: Settings, tmp_path: Path) -> None:
    write_weatherbench(tmp_path / "in" / "era5.zarr")
    plan = make_plan(settings(layout="era5", input=str(tmp_path / "in" / "era5.zarr"))).sources[0]
    assert plan.channels == CHANNELS
    single = tmp_path / "single"
    single.mkdir()
    with xr.open_zarr(tmp_path / "in" / "era5.zarr") as store:
        for i in range(6):
            store[["2m_temperature"]].isel(time=[i]).to_netcdf(single / f"step{i}.nc")
    plan = make_plan(settings(layout="era5", input=str(single))).sources[0]
    assert (plan.frequency, len(plan.seconds), plan.segment_starts) == ("6hr", 6, [0])


def test_surface_geopotential_without_levels_is_orography(settings: Settings, tmp_path: Path) -> None:
    write_copernicus(tmp_path / "in", new=True)
    with netCDF4.Dataset(tmp_path / "in" / "static.nc", "w") as file:
        _, lat, lon = era5_fields()
        file.createDimension("valid_time", 1)
        axis = file.createVariable("valid_time", "i8", ("valid_time",))
        axis.setncatts({"units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian"})
        axis[:] = 0
        for name, values in (("latitude", lat), ("longitude", lon)):
            file.createDimension(name, len(values))
            file.createVariable(name, "f8", (name,))[:] = values
        for name, units, value in (("z", "m**2 s**-2", 9806.65), ("lsm", "(0 - 1)", 0.25)):
            variable = file.createVariable(name, "f4", ("valid_time", "latitude", "longitude"))
            variable.units = units
            variable[:] = value
    folder = pack(settings(layout="era5")).parent
    source = read_manifest(folder).sources[NAME]
    assert source.static == ["land_sea_mask", "orography", "latitude"]
    static = packed.static(folder, NAME)
    assert np.allclose(static["land_sea_mask"], 0.25)
    assert np.allclose(static["orography"], 1000, rtol=1e-6)


def test_two_versions_of_the_last_months_are_merged(settings: Settings, tmp_path: Path) -> None:
    """The old store gave ERA5 and ERA5T (expver 1 and 5) along one dimension; each fills the gaps of the other."""
    fields, lat, lon = era5_fields()
    (tmp_path / "in").mkdir()
    with netCDF4.Dataset(tmp_path / "in" / "mixed.nc", "w") as file:
        for name, values in (("time", 6.0 * np.arange(6)), ("expver", [1, 5]), ("latitude", lat), ("longitude", lon)):
            file.createDimension(name, len(values))
            file.createVariable(name, "f8", (name,))[:] = values
        file["time"].setncatts({"units": "hours since 2023-01-01", "calendar": "gregorian"})
        variable = file.createVariable("t2m", "f4", ("time", "expver", "latitude", "longitude"), fill_value=-999.0)
        variable.units = "K"
        both = np.full((6, 2, 13, 24), -999.0)
        both[:4, 0], both[4:, 1] = fields["t2m"][:4], fields["t2m"][4:]
        variable[:] = both
    _, packed = physical(pack(settings(layout="era5", grid_spacing_deg=None)).parent)
    assert np.allclose(packed[:, 0], fields["t2m"][..., ::-1, :], rtol=2e-6)


def test_precipitation_sums_become_rates_and_mix_with_instants_only_on_request(
    settings: Settings, tmp_path: Path
) -> None:
    write_copernicus(tmp_path / "in", new=False)
    with netCDF4.Dataset(tmp_path / "in" / "download_single.nc", "a") as file:
        variable = file.createVariable("tp", "f4", ("time", "latitude", "longitude"))
        variable.units = "m"
        variable[:] = 0.0036 * np.random.default_rng(0).uniform(0.5, 1.5, (6, 13, 24))
    with pytest.raises(UserError, match=r"tp is a sum over .* its time step is 6hr, not 1 h: set accumulated_h"):
        pack(settings(layout="era5"))
    stated = {"layout": "era5", "accumulated_hours": {"tp": 1.0}}
    with pytest.raises(UserError, match=r"mixes instantaneous fields .* and time means \(download_single.nc\)"):
        pack(settings(**stated))
    folder = pack(settings(**stated, allow_mixed_cell_methods=True)).parent
    rate = read_manifest(folder).sources[NAME].statistics["total_precipitation_rate"]
    assert rate["mean"] == pytest.approx(1e-3, rel=0.05)


@pytest.mark.parametrize(
    ("step_hours", "stated", "per_hour"), [(1, None, 1.0), (3, 3.0, 3.0), (24, 24.0, 24.0), (24 * 30.5, 24.0, 24.0)]
)
def test_a_sum_covers_what_its_product_says(
    settings: Settings, tmp_path: Path, step_hours: float, stated: float | None, per_hour: float
) -> None:
    write_copernicus(tmp_path / "in", new=False)
    for path in (tmp_path / "in").glob("*.nc"):
        path.unlink()
    _, lat, lon = era5_fields()
    with netCDF4.Dataset(tmp_path / "in" / "tp.nc", "w") as file:
        for name, values in (("time", np.arange(24) * step_hours), ("latitude", lat), ("longitude", lon)):
            file.createDimension(name, len(values))
            file.createVariable(name, "f8", (name,))[:] = values
        file["time"].units = "hours since 2001-01-15"
        variable = file.createVariable("tp", "f4", ("time", "latitude", "longitude"))
        variable.units = "m"
        random = np.random.default_rng(0).uniform(0.5, 1.5, (24, len(lat), len(lon)))
        variable[:] = 1e-4 * 3.6 * per_hour * random  # 0.36 mm an hour
    if stated:
        with pytest.raises(UserError, match="tp is a sum over a period that the file does not state"):
            pack(settings(layout="era5"))
    hours = {"tp": stated} if stated else None
    folder = pack(settings(layout="era5", accumulated_hours=hours)).parent
    rate = read_manifest(folder).sources[NAME].statistics["total_precipitation_rate"]
    assert rate["mean"] == pytest.approx(1e-4, rel=0.02)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_shipped_config_derives_relative_humidity(tmp_path: Path) -> None:
    write_weatherbench(tmp_path / "in" / "era5.zarr")
    names = ["2m_temperature", "relative_humidity_500", "specific_humidity_500"]
    arguments = ["--config", "era5", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}"]
    config = read_config(PackConfig, "pack", [*arguments, f"--variables={json.dumps(names)}"])
    plan = make_plan(config).sources[0]
    assert plan.channels == names
    assert set(plan.derived()) == {"relative_humidity_500"}
    with pytest.raises(UserError, match="variables: no source contains land_sea_mask"):
        make_plan(read_config(PackConfig, "pack", arguments))


MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")


@pytest.mark.mpi
@pytest.mark.skipif(MPIEXEC is None, reason="mpiexec is not installed")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_ranks_pack_a_store_with_derived_channels_and_a_region_identically(tmp_path: Path) -> None:
    write_weatherbench(tmp_path / "in" / "era5.zarr")
    command = [sys.executable, "-m", "climax_hpc", "pack", "--layout", "era5", f"--input={tmp_path / 'in'}"]
    command += ["--variables", '["relative_humidity_500", "orography"]', "--region", "Africa", "--steps_per_shard", "1"]
    alone, ranks = tmp_path / "alone", tmp_path / "ranks"
    run([*command[3:], f"--output={alone}"])
    launcher = [str(MPIEXEC), "-n", "2"]
    done = subprocess.run(
        [*launcher, *command, f"--output={ranks}"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found = {
        output.name: {p.relative_to(output).as_posix(): sha256(p) for p in output.rglob("*") if p.is_file()}
        for output in (alone, ranks)
    }
    assert len(found["alone"]) == 6 + 3
    assert found["ranks"] == found["alone"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_store_that_lacks_a_chunk_is_refused(settings: Settings, tmp_path: Path) -> None:
    write_weatherbench(tmp_path / "in" / "era5.zarr")
    (tmp_path / "in" / "era5.zarr" / "temperature" / "1.0.0.0").unlink()
    with pytest.raises(
        UserError, match=r"era5.zarr/temperature: chunk 1\.0\.0\.0 of temperature is absent, so the store is incomplete"
    ):
        pack(settings(layout="era5"))
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_damaged_chunk_and_a_damaged_store_are_refused(settings: Settings, tmp_path: Path) -> None:
    write_weatherbench(tmp_path / "in" / "era5.zarr")
    chunk = tmp_path / "in" / "era5.zarr" / "2m_temperature" / "1.0.0"
    chunk.write_bytes(chunk.read_bytes()[:40])
    with pytest.raises(UserError, match=r"era5.zarr/2m_temperature: 2m_temperature cannot be read .*download it again"):
        pack(settings(layout="era5"))
    (tmp_path / "in" / "era5.zarr" / "2m_temperature" / ".zarray").write_text("{")
    with pytest.raises(UserError, match=r"era5\.zarr: cannot be opened as a zarr store"):
        pack(settings(layout="era5"))


def test_an_empty_folder_and_a_wrong_layout_are_refused(settings: Settings, cmip6: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match=r"contains neither zarr stores \(\*\.zarr\) nor NetCDF"):
        pack(settings(layout="era5"))
    cmip6("tas")
    with pytest.raises(UserError, match=r"nothing to pack \(.*tas is no name of layout era5; use layout cmip6\)"):
        pack(settings(layout="era5"))
    with pytest.raises(UserError, match="layout: 'era6' is not one of cmip6, era5, anemoi, climatebench, climate4r"):
        settings(layout="era6")


@pytest.mark.shared_data
def test_real_era5_over_europe(settings: Settings, shared_data: Path) -> None:
    """Copernicus NetCDF of 2020-01-01 (int16, descending latitudes, 24 h, 20 levels), a region."""
    root = shared_data / "WAM2layers"
    with pytest.raises(UserError, match=r"covers only 45\.0…55\.0° N, 0\.0…10\.0° E; .*or set a region"):
        pack(settings(layout="era5", input=str(root)))
    names = ["10m_u_component_of_wind", "u_component_of_wind_850", "specific_humidity_500", "surface_pressure"]
    config = settings(
        layout="era5", input=str(root), region=[44, 56, -1, 11], grid_spacing_deg=None, variables=names, pad_to=4
    )
    manifest, fields = physical(pack(config).parent)
    source = manifest.sources[NAME]
    assert (source.frequency, sum(s.steps for s in source.shards)) == ("1hr", 24)
    assert source.channels == names
    assert fields.shape == (24, 4, 44, 44)  # 41 rows and columns, padded
    with netCDF4.Dataset(root / "era5_pl" / "ERA5_2020-01-01_pl_u.nc") as file:
        raw = file["u"][:, list(file["level"][:]).index(850)][:, ::-1]
    rows = [i for i, lat in enumerate(source.grid["lat"]) if 45 <= lat <= 55]
    assert np.allclose(fields[:, 1, rows][:, :, :41], raw, rtol=1e-5, atol=1e-4)
    assert np.isnan(fields[:, :, :, 41:]).all()
