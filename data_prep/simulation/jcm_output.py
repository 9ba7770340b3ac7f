"""Writes one variable as a CF-1.7 NetCDF file at its place in a CMIP6 directory tree; numpy and netCDF4 only."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Times = NDArray[np.datetime64]

EPOCH = np.datetime64("1850-01-01T00:00:00")
# jcm's clock is jax_datetime, whose years have leap days by the Gregorian rule in both directions.
CALENDAR = "proleptic_gregorian"
TIMED_TABLE, FIXED_TABLE = "6hrPlevPt", "fx"
FILL: dict[str, Any] = {"f4": np.float32(1e20), "i2": np.int16(-32768)}  # 1e20 is CMIP6's
STEPS_PER_CHUNK = 120  # with the bands: 60-250 KB per chunk at T21-T42
BANDS = 8  # chunks along latitude: values within a zone are similar, so files shrink by 3 %


@dataclass(frozen=True, kw_only=True)
class Field:
    """One variable, ready to write."""

    name: str
    """CMIP6 variable id."""
    metadata: Mapping[str, Any]
    """The fields of `jcm_variables.OutputVariable`."""
    values: Array
    """([T, [P,]] H, W) in CMIP6 units."""
    times: Times | None = None
    """(T,) instants, None for a fixed field."""
    plev: Array | None = None
    """(P,) pressure levels [Pa], None at the surface."""


def gaussian_bounds(n_lat: int) -> Array:
    """Edges (n_lat, 2) [degrees] of Gaussian rows, south first; the area of a row is its quadrature weight."""
    _, weights = np.polynomial.legendre.leggauss(n_lat)
    edges = np.rad2deg(np.arcsin(np.clip(np.concatenate([[-1.0], np.cumsum(weights) - 1.0]), -1.0, 1.0)))
    edges[0], edges[-1] = -90.0, 90.0
    return np.stack([edges[:-1], edges[1:]], axis=-1)


def stamp(time: np.datetime64) -> str:
    """An instant as in CMIP6 file names: YYYYMMDDhhmm."""
    return "".join(c for c in str(time.astype("datetime64[m]")) if c.isdigit())


def relative_path(name: str, times: Times | None, facets: Mapping[str, str]) -> Path:
    """`table/variable/grid/version/file.nc` below the member's folder, after the CMIP6 DRS."""
    table = FIXED_TABLE if times is None else TIMED_TABLE
    parts = [name, table, facets["source_id"], facets["experiment_id"], facets["variant_label"], facets["grid_label"]]
    if times is not None:
        parts.append(f"{stamp(times[0])}-{stamp(times[-1])}")
    return Path(table, name, facets["grid_label"], facets["version"], "_".join(parts) + ".nc")


def pack(values: Array, quantum: float, offset: float, name: str) -> NDArray[np.int16]:
    """Values as int16 multiples of the quantum, counted from the offset.

    Raises:
        ValueError: a value does not fit or is not finite.
    """
    steps = np.rint((values - offset) / quantum)
    if not np.abs(steps).max() <= 32767:
        low, high = values.min(), values.max()
        raise ValueError(f"{name} from {low:g} to {high:g} does not fit int16 at {quantum:g}; set quantise: false")
    return steps.astype(np.int16)


def write_field(
    member: Path, field: Field, facets: Mapping[str, str], attributes: Mapping[str, object], quantise: bool
) -> Path:
    """Write the field below the member's folder; returns the file."""
    path = member / relative_path(field.name, field.times, facets)
    path.parent.mkdir(parents=True, exist_ok=True)
    with netCDF4.Dataset(path, "w", format="NETCDF4_CLASSIC") as file:
        dims = _write_axes(file, field)
        _write_values(file, field, dims, quantise)
        table = FIXED_TABLE if field.times is None else TIMED_TABLE
        file.setncatts(
            {
                **attributes,
                "frequency": "fx" if field.times is None else "6hrPt",
                "table_id": table,
                "variable_id": field.name,
            }
        )
    return path


def _write_axes(file: netCDF4.Dataset, field: Field) -> list[str]:
    """Dimensions and coordinates; returns the names of the field's dimensions."""
    n_lat, n_lon = field.values.shape[-2:]
    dims = []
    if field.times is not None:
        file.createDimension("time", len(field.times))
        days = (field.times - EPOCH).astype("timedelta64[s]").astype(np.float64) / 86400.0
        attrs = {"standard_name": "time", "axis": "T", "units": "days since 1850-01-01 00:00:00"}
        _coordinate(file, "time", ("time",), days, {**attrs, "calendar": CALENDAR})
        dims.append("time")
    if field.plev is not None:
        file.createDimension("plev", len(field.plev))
        attrs = {
            "standard_name": "air_pressure",
            "units": "Pa",
            "axis": "Z",
            "positive": "down",
        }
        _coordinate(file, "plev", ("plev",), field.plev, attrs)
        dims.append("plev")
    latitudes = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(n_lat)[0]))
    longitudes = np.arange(n_lon) * 360.0 / n_lon
    half = 180.0 / n_lon
    for name, size in (("lat", n_lat), ("lon", n_lon), ("bnds", 2)):
        file.createDimension(name, size)
    attrs = {"standard_name": "latitude", "units": "degrees_north", "axis": "Y", "bounds": "lat_bnds"}
    _coordinate(file, "lat", ("lat",), latitudes, attrs)
    attrs = {"standard_name": "longitude", "units": "degrees_east", "axis": "X", "bounds": "lon_bnds"}
    _coordinate(file, "lon", ("lon",), longitudes, attrs)
    _coordinate(file, "lat_bnds", ("lat", "bnds"), gaussian_bounds(n_lat), {})
    _coordinate(file, "lon_bnds", ("lon", "bnds"), np.stack([longitudes - half, longitudes + half], -1), {})
    height = field.metadata.get("height_m")
    if height is not None:
        attrs = {"standard_name": "height", "units": "m", "axis": "Z", "positive": "up"}
        _coordinate(file, "height", (), np.float64(height), attrs)
    return [*dims, "lat", "lon"]


def _coordinate(
    file: netCDF4.Dataset, name: str, dims: tuple[str, ...], values: Array | np.float64, attrs: Mapping[str, str]
) -> None:
    variable = file.createVariable(name, "f8", dims)
    variable.setncatts(attrs)
    variable[...] = values


def _write_values(file: netCDF4.Dataset, field: Field, dims: list[str], quantise: bool) -> None:
    quantum, offset = field.metadata["quantum"], field.metadata["offset"]
    packed = quantise and quantum > 0
    kind = "i2" if packed else "f4"
    n_lat, n_lon = field.values.shape[-2:]
    chunk = {"time": min(STEPS_PER_CHUNK, len(field.values)), "plev": 1, "lat": max(1, n_lat // BANDS), "lon": n_lon}
    variable = file.createVariable(
        field.name,
        kind,
        dims,
        zlib=True,
        complevel=9,
        shuffle=True,
        chunksizes=[chunk[d] for d in dims],
        fill_value=FILL[kind],
    )
    attrs: dict[str, object] = {key: field.metadata[key] for key in ("standard_name", "long_name", "units")}
    attrs["cell_methods"] = "area: mean" if field.times is None else "area: mean time: point"
    attrs["missing_value"] = FILL[kind]
    if field.metadata.get("height_m") is not None:
        attrs["coordinates"] = "height"
    if packed:
        attrs |= {"scale_factor": quantum, "add_offset": offset}
    variable.set_auto_maskandscale(False)
    variable.setncatts(attrs)
    variable[...] = pack(field.values, quantum, offset, field.name) if packed else field.values.astype(np.float32)
