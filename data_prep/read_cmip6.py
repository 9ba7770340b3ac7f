"""One CMIP6 file: units, calendar, levels and grid checked or refused with the reason; fields read in slabs of time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
from numpy.typing import NDArray

from climax_hpc.data_prep.calendars import Seconds, decode_times
from climax_hpc.data_prep.coordinates import Orientation, Unusable, orient
from climax_hpc.errors import UserError
from climax_hpc.variables import channels_of

Array = NDArray[np.float64]
_LEVEL_TOLERANCE = 0.01  # plev is often stored as float32 or rounded: 92500.0001, 1 % is far below the next level
_CHUNK_CACHE_BYTES = 256 << 20  # holds one row of chunks where a chunk spans many time steps


@dataclass(frozen=True, eq=False)
class CmipFile:
    """What the packer knows of one file and one variable, without its fields."""

    file: str
    """Path relative to the input folder."""
    variable_id: str
    orientation: Orientation
    seconds: Seconds
    """Time stamps (T,), seconds since 1850 in `calendar`; empty for static fields."""
    calendar: str
    levels: dict[int, int]
    """Pressure level [hPa] -> index in the file; only levels of the registry."""
    file_levels_hpa: list[float]
    """All levels of the file [hPa], for messages."""
    scale: float
    offset: float
    """Value in registry units = scale · value + offset."""
    cell_methods: str
    dimensions: tuple[str, ...]
    """Role of each axis of the variable: time, level, lat, lon or one (length 1)."""


def inspect(root: Path, file: str, variable_id: str) -> CmipFile:
    """Check the header, coordinates, units and time axis of one file.

    Raises:
        Unusable: a file that is sound but cannot be packed (curvilinear, regional, model levels).
        UserError: a file that is wrong (truncated, units, calendar, time axis), with the mend.
    """
    with opened(root / file, file) as dataset:
        if variable_id not in dataset.variables:
            raise UserError(f"{file}: holds no variable {variable_id!r} as its name and header say; download it again")
        variable = dataset.variables[variable_id]
        lat, lon = _horizontal(dataset, variable)
        level = _axis(dataset, variable, "level")
        roles = _roles(dataset, variable, lat, lon, level)
        seconds, calendar = _times(dataset, variable, file) if "time" in roles else (np.empty(0, np.int64), "standard")
        levels_hpa = [] if level is None else _levels_hpa(level, file)
        scale, offset = conversion(variable_id, str(getattr(variable, "units", "")), file)
        return CmipFile(
            file=file,
            variable_id=variable_id,
            orientation=orient(_numbers(lat), _numbers(lon), _bounds(dataset, lat), _bounds(dataset, lon)),
            seconds=seconds,
            calendar=calendar,
            levels=_select_levels(variable_id, levels_hpa),
            file_levels_hpa=levels_hpa,
            scale=scale,
            offset=offset,
            cell_methods=str(getattr(variable, "cell_methods", "")),
            dimensions=roles,
        )


def read_fields(dataset: Any, source: CmipFile, levels: list[int | None], start: int, stop: int) -> Array:
    """Steps start … stop-1 of the file: (T, levels, H, W) in registry units, ascending grid, NaN = missing.

    `levels` are pressure levels [hPa], [None] for a surface field; static files have one step.

    Raises:
        UserError: the data cannot be read (truncated, damaged) or hold infinite values.
    """
    variable = dataset.variables[source.variable_id]
    wanted = [source.levels[level] for level in levels if level is not None]
    slices = {
        "time": slice(start, stop),
        "level": slice(min(wanted), max(wanted) + 1) if wanted else slice(None),
        "lat": slice(None),
        "lon": slice(None),
        "one": 0,
    }
    try:
        raw = variable[tuple(slices[role] for role in source.dimensions)]
    except (RuntimeError, OSError, IndexError) as error:
        raise UserError(
            f"{source.file}: cannot read steps {start}–{stop - 1} of {source.variable_id} ({error}); "
            "the file is truncated or damaged: download it again"
        ) from error
    real = np.promote_types(raw.dtype, np.float32)  # float32 stays: half the memory until it is regridded
    fields = np.ma.filled(np.ma.asarray(raw).astype(real, copy=False), np.nan)
    kept = [role for role in source.dimensions if role != "one"]
    order = [kept.index(role) for role in ("time", "level", "lat", "lon") if role in kept]
    fields = fields.transpose(order)
    if "time" not in kept:
        fields = fields[None]
    if "level" not in kept:
        fields = fields[:, None]
    elif wanted:
        fields = fields[:, [index - min(wanted) for index in wanted]]
    if np.isinf(fields).any():
        step = start + int(np.argmax(np.isinf(fields).any(axis=(1, 2, 3))))
        raise UserError(f"{source.file}: {source.variable_id} is infinite at step {step}; mend or leave out the file")
    if (source.scale, source.offset) != (1.0, 0.0):
        fields = fields * np.float64(source.scale) + np.float64(source.offset)
    return source.orientation.apply(fields)


@contextmanager
def opened(path: Path, name: str) -> Iterator[Any]:
    """The open netCDF4 data set.

    Raises:
        UserError: not NetCDF, truncated.
    """
    try:
        dataset = netCDF4.Dataset(path)
    except OSError as error:
        raise UserError(
            f"{name}: cannot be opened as NetCDF ({_short(error)}); truncated? download it again"
        ) from error
    try:
        _refuse_short_classic(dataset, path, name)
        yield dataset
    finally:
        dataset.close()


def _refuse_short_classic(dataset: Any, path: Path, name: str) -> None:
    """NetCDF-3 files are read past their end as zeros, without an error."""
    if dataset.data_model.startswith("NETCDF3"):
        needed = sum(v.size * v.dtype.itemsize for v in dataset.variables.values())
        if os.path.getsize(path) < needed:
            raise UserError(
                f"{name}: is truncated ({os.path.getsize(path)} bytes of more than {needed}); download it again"
            )


def set_chunk_cache(dataset: Any, variable_id: str) -> None:
    """Let the cache hold a row of chunks, so that chunks which span many steps are decompressed once."""
    variable = dataset.variables[variable_id]
    chunks = variable.chunking()
    if isinstance(chunks, list):
        row = int(np.prod([-(-n // c) * c for n, c in zip(variable.shape[1:], chunks[1:], strict=True)]))
        wanted = row * (chunks[0] if chunks else 1) * variable.dtype.itemsize
        variable.set_var_chunk_cache(size=min(max(wanted, 1 << 20), _CHUNK_CACHE_BYTES))


@lru_cache(maxsize=256)
def _affine(units: str, target: str) -> tuple[float, float]:
    from cf_xarray.units import units as registry  # takes a second, and ranks that only write need it late

    zero, one = (registry.Quantity(value, units).to(target).magnitude for value in (0.0, 1.0))
    return float(one - zero), float(zero)


def conversion(variable_id: str, units: str, file: str) -> tuple[float, float]:
    """(scale, offset) from the file's units to those of the registry.

    Raises:
        UserError: units missing, unknown, or of another kind.
    """
    entry = channels_of(variable_id)[0]
    mend = "correct the `units` attribute (ncatted) or leave the file out"
    if not units:
        raise UserError(f"{file}: {variable_id} has no units (expected {entry.cmip6_units}); {mend}")
    try:
        scale, offset = _affine(units, entry.cmip6_units)
    except Exception as error:  # pint raises half a dozen kinds, all meaning the same here
        raise UserError(
            f"{file}: {variable_id} in {units!r} does not convert to {entry.cmip6_units!r} ({_short(error)}); {mend}"
        ) from error
    return scale * entry.factor, offset * entry.factor


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _numbers(variable: Any) -> Array:
    return np.ma.filled(np.ma.asarray(variable[:]).astype(np.float64), np.nan)


def _bounds(dataset: Any, variable: Any) -> Array | None:
    for name in (getattr(variable, "bounds", ""), f"{variable.name}_bnds", f"{variable.name}_bounds"):
        if name in dataset.variables and dataset.variables[name].shape == (*variable.shape, 2):
            bounds = _numbers(dataset.variables[name])
            return bounds if np.isfinite(bounds).all() else None
    return None


_KINDS: dict[str, dict[str, tuple[str, ...]]] = {
    "lat": {"standard_name": ("latitude",), "name": ("lat", "latitude"), "axis": ()},
    "lon": {"standard_name": ("longitude",), "name": ("lon", "longitude"), "axis": ()},
    "time": {"standard_name": ("time",), "name": ("time",), "axis": ("T",)},
    "level": {"standard_name": ("air_pressure",), "name": ("plev", "pressure", "lev", "level"), "axis": ("Z",)},
}


def _axis(dataset: Any, variable: Any, kind: str) -> Any | None:
    """The 1-D coordinate variable of that kind along one dimension of the variable, or None."""
    for name in variable.dimensions:
        coordinate = dataset.variables.get(name)
        if coordinate is not None and coordinate.dimensions == (name,) and _is_kind(coordinate, kind):
            return coordinate
    return None


def _is_kind(coordinate: Any, kind: str) -> bool:
    return any(
        (coordinate.name if key == "name" else getattr(coordinate, key, "")) in values
        for key, values in _KINDS[kind].items()
    )


def _horizontal(dataset: Any, variable: Any) -> tuple[Any, Any]:
    lat, lon = (_axis(dataset, variable, kind) for kind in ("lat", "lon"))
    if lat is not None and lon is not None:
        return lat, lon
    named = [dataset.variables[n] for n in dataset.variables if n in ("lat", "latitude", "lon", "longitude", "nav_lat")]
    if any(coordinate.ndim == 2 for coordinate in named):
        raise Unusable(
            "its grid is curvilinear (2-D latitudes and longitudes); regrid it first, `cdo remapcon,r360x180`"
        )
    if any(coordinate.ndim == 1 and coordinate.dimensions[0] in variable.dimensions for coordinate in named):
        raise Unusable("its grid is unstructured (one index for all cells); regrid it first, `cdo remapcon,r360x180`")
    raise Unusable("it has no latitudes and longitudes; regrid it first, `cdo remapcon,r360x180`")


def _roles(dataset: Any, variable: Any, lat: Any, lon: Any, level: Any | None) -> tuple[str, ...]:
    time = _axis(dataset, variable, "time")
    known = {axis.name: role for axis, role in ((lat, "lat"), (lon, "lon"), (time, "time")) if axis is not None}
    pressure_level = channels_of(variable.name)[0].level_hpa is not None
    if level is not None:
        known[level.name] = "level" if pressure_level else "one"
    for name, length in zip(variable.dimensions, variable.shape, strict=True):
        if known.get(name, "one") == "one" and length != 1:
            raise Unusable(f"it has a dimension {name!r} of length {length} that is not pressure; leave the file out")
    roles = tuple(known.get(name, "one") for name in variable.dimensions)
    if pressure_level and "level" not in roles:
        raise Unusable("it has no pressure dimension (`plev`); take a table on pressure levels")
    return roles


def _levels_hpa(level: Any, file: str) -> list[float]:
    units = str(getattr(level, "units", ""))
    try:
        scale, _ = _affine(units, "hPa")
    except Exception as error:
        raise Unusable(
            f"its levels ({level.name} in {units!r}) are not pressure; take a table on pressure levels"
        ) from error
    return [float(value) for value in _numbers(level) * scale]


def _select_levels(variable_id: str, levels_hpa: list[float]) -> dict[int, int]:
    """Registry level -> nearest index in the file, within the tolerance."""
    chosen: dict[int, int] = {}
    for wanted in (v.level_hpa for v in channels_of(variable_id) if v.level_hpa is not None):
        distance = [abs(value / wanted - 1) for value in levels_hpa]
        if distance and min(distance) <= _LEVEL_TOLERANCE:
            chosen[wanted] = int(np.argmin(distance))
    return chosen


def _times(dataset: Any, variable: Any, file: str) -> tuple[Seconds, str]:
    axis = _axis(dataset, variable, "time")
    assert axis is not None
    values = _numbers(axis)
    if not len(values):
        raise UserError(f"{file}: holds no time step; download it again")
    if not np.isfinite(values).all():
        raise UserError(f"{file}: time stamp {int(np.argmin(np.isfinite(values)))} is missing; download it again")
    units, calendar = str(getattr(axis, "units", "")), str(getattr(axis, "calendar", "standard"))
    seconds, calendar = decode_times(values, units, calendar, file)
    return seconds, calendar
