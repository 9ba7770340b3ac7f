"""Small CMIP6 files for tests, and the settings to pack them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
from numpy.typing import NDArray

from climax_hpc.data_prep.config import PackConfig
from climax_hpc.fields.variables import channels_of

SHARED_DATA = Path(__file__).parents[2].parent / "shared" / "data"
NOLEAP_1850 = "days since 1850-01-01"


def six_hourly(steps: int, start_day: float = 0.0) -> NDArray[np.float64]:
    """Time stamps [days] every 6 hours."""
    return start_day + np.arange(steps) / 4


def mid_months(count: int) -> NDArray[np.float64]:
    """Time stamps [days] near the middle of each month of a year of 365 days."""
    lengths = np.resize([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], count)
    return np.cumsum(lengths) - lengths / 2


def write_cmip6(
    root: Path,
    variable_id: str = "tas",
    *,
    times: NDArray[np.float64] | None = None,
    source: str = "TEST-1",
    experiment: str = "historical",
    member: str = "r1i1p1f1",
    table: str = "6hrPlevPt",
    frequency: str = "6hrPt",
    grid_label: str = "gn",
    calendar: str = "noleap",
    time_units: str = NOLEAP_1850,
    lat: NDArray[np.float64] | None = None,
    lon: NDArray[np.float64] | None = None,
    plev_hpa: list[float] | None = None,
    units: str | None = None,
    values: NDArray[np.float64] | None = None,
    cell_methods: str = "area: mean time: point",
    bounds: bool = True,
    data_format: str = "NETCDF4",
    part: str = "",
    chunks: tuple[int, ...] | None = None,
    version: str = "v20200101",
) -> Path:
    """One file of one variable in a DRS tree below `root`; fields differ by variable, source and time."""
    lat = np.arange(-82.5, 90, 15) if lat is None else lat
    lon = np.arange(0, 360, 15.0) if lon is None else lon
    static = frequency == "fx"
    times = six_hourly(8) if times is None else times
    folder = root / source / experiment / member / table / variable_id / grid_label / version
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{variable_id}_{table}_{source}_{experiment}_{member}_{grid_label}{part}.nc"
    shape = (*(() if static else (len(times),)), *((len(plev_hpa),) if plev_hpa else ()), len(lat), len(lon))
    if values is None:
        values = _fields(f"{variable_id}{source}{member}", shape, lat, times if not static else None)
        values = _plausible(values, variable_id, plev_hpa)
    with netCDF4.Dataset(path, "w", format=data_format) as file:
        file.setncatts(
            {"source_id": source, "experiment_id": experiment, "variant_label": member, "table_id": table}
            | {"variable_id": variable_id, "frequency": frequency, "grid_label": grid_label, "mip_era": "CMIP6"}
        )
        dimensions = []
        if not static:
            dimensions.append("time")
            file.createDimension("time", None)
            _write_axis(file, "time", times, units=time_units, calendar=calendar, standard_name="time", axis="T")
        if plev_hpa:
            dimensions.append("plev")
            _write_axis(file, "plev", 100 * np.array(plev_hpa), units="Pa", standard_name="air_pressure", axis="Z")
        _write_horizontal(file, lat, lon, bounds)
        variable = file.createVariable(
            variable_id, "f4", (*dimensions, "lat", "lon"), fill_value=1e20, chunksizes=chunks, zlib=chunks is not None
        )
        variable.units = units if units is not None else cmip6_units(variable_id)
        variable.cell_methods = cell_methods
        variable[:] = np.ma.masked_invalid(values) if np.isnan(values).any() else values
    return path


def cmip6_units(variable_id: str) -> str:
    """Units of a variable in CMIP6 files."""
    own = {"zg": "m", "sftlf": "%", "hur": "%", "tos": "degC"}
    channels = channels_of(variable_id)
    return own.get(variable_id) or (channels[0].units if channels else "1")


def _write_axis(file: Any, name: str, values: NDArray[np.float64], **attributes: str) -> Any:
    """Write a coordinate variable, and its dimension if it is missing."""
    if name not in file.dimensions:
        file.createDimension(name, len(values))
    axis = file.createVariable(name, "f8", (name,))
    axis.setncatts(attributes)
    axis[:] = values
    return axis


def _write_horizontal(file: Any, lat: NDArray[np.float64], lon: NDArray[np.float64], bounds: bool) -> None:
    for name, values, kind in (("lat", lat, "latitude"), ("lon", lon, "longitude")):
        units = "degrees_north" if name == "lat" else "degrees_east"
        axis = _write_axis(file, name, values, standard_name=kind, units=units)
        if bounds:
            if "bnds" not in file.dimensions:
                file.createDimension("bnds", 2)
            axis.bounds = f"{name}_bnds"
            half = abs(values[1] - values[0]) / 2
            edges = file.createVariable(f"{name}_bnds", "f8", (name, "bnds"))
            edges[:] = np.stack([values - half, values + half], axis=-1)


def _fields(key: str, shape: tuple[int, ...], lat: Any, times: Any) -> NDArray[np.float64]:
    """Noise on a meridional profile that drifts in time."""
    seed = [ord(c) for c in key] + ([] if times is None else [round(float(times[0]) * 4) & 0xFFFF])
    noise = np.random.default_rng(seed).standard_normal(shape)
    field = 250 + 10 * noise + 40 * np.cos(np.deg2rad(lat))[:, None]
    if times is not None:
        field = field + np.sin(np.asarray(times) / 50).reshape(-1, *(1 for _ in shape[1:]))
    return field


def _plausible(values: NDArray[np.float64], variable_id: str, plev_hpa: list[float] | None) -> NDArray[np.float64]:
    """Fields about 250 … 330 shifted and scaled to values of the variable in its CMIP6 units; temperatures as is."""
    away = (values - 270) / 100  # -0.5 … 0.6
    if variable_id == "zg":  # heights of the standard atmosphere, above the field
        height_m = 44331 * (1 - (np.array(plev_hpa or [500.0]) / 1013.25) ** 0.19)
        return height_m[:, None, None] + 500 * away
    centre, scale = _CENTRE_AND_SCALE.get(variable_id, (None, None))
    return values if centre is None or scale is None else centre + scale * away


_CENTRE_AND_SCALE = {
    "psl": (1e5, 1e4), "ps": (9e4, 1e4), "pr": (1e-4, 1e-4), "hus": (5e-4, 5e-4), "hur": (50, 50),
    "orog": (500, 500), "sftlf": (50, 50), **dict.fromkeys(("ua", "va", "uas", "vas"), (0, 60)), "tos": (15, 30),
}  # fmt: skip


class Cmip6Writer:
    """`write_cmip6` into one folder, with the time axes that tests use."""

    six_hourly = staticmethod(six_hourly)
    mid_months = staticmethod(mid_months)

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, *args: Any, **kwargs: Any) -> Path:
        """Write one file; its path."""
        return write_cmip6(self.root, *args, **kwargs)

    @staticmethod
    def damage(path: Path, variable_id: str, step: int) -> None:
        """Overwrite the compressed chunk of one time step."""
        with h5py.File(path) as file:
            chunk = file[variable_id].id.get_chunk_info_by_coord((step, 0, 0))
        raw = bytearray(path.read_bytes())
        raw[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
        path.write_bytes(bytes(raw))


@pytest.fixture
def cmip6(tmp_path: Path) -> Cmip6Writer:
    """Writes files into the folder `in` of the test."""
    return Cmip6Writer(tmp_path / "in")


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., PackConfig]:
    """A PackConfig from `in` to `out` of the test on a 22.5° grid; float32 by default."""

    def make(**changes: Any) -> PackConfig:
        base: dict[str, Any] = {"input": str(tmp_path / "in"), "output": str(tmp_path / "out"), "dtype": "float32"}
        return PackConfig(**(base | {"grid_spacing_deg": 22.5} | changes))

    return make


@pytest.fixture
def shared_data() -> Path:
    """../shared/data, real CMIP6 that is not part of this repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"{SHARED_DATA} is absent: real CMIP6 is not part of this repository")
    return SHARED_DATA
