"""Initial conditions from xarray data sets, NetCDF files and zarr stores: finds names, units, levels and grid.

A variable may be named as in the registry (`geopotential_500`), as in CMIP6 (`zg` on pressure levels) or as in
WeatherBench (`geopotential` on pressure levels). Fields are read lazily, one time at a time.
Dimensions: C dynamic channels · H, W grid.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from climax_hpc.data_prep.packing.regrid import Regridder, regridder
from climax_hpc.data_prep.sources.array_dataset import ArrayDataset, ArrayVariable, from_xarray
from climax_hpc.data_prep.sources.branding import branding_of, refuse_branding, refuse_other_method
from climax_hpc.data_prep.sources.catalog import IDENTITY
from climax_hpc.data_prep.sources.conversions import conversion
from climax_hpc.data_prep.sources.coordinates import (
    COORDINATES,
    Unusable,
    attribute,
    axis_of,
    bounds_names,
    numbers,
    refuse_text,
)
from climax_hpc.data_prep.sources.facets import refuse_region, region_of
from climax_hpc.data_prep.sources.field_height import refuse_other_height
from climax_hpc.data_prep.sources.horizontal import horizontal
from climax_hpc.data_prep.sources.intervals import member_methods, refuse_statistics
from climax_hpc.data_prep.sources.orientation import Orientation, orient
from climax_hpc.data_prep.sources.pressure_levels import pressure_levels, select_levels
from climax_hpc.data_prep.sources.standard_names import refuse_other_quantity
from climax_hpc.errors import UserError
from climax_hpc.fields.grid import Grid
from climax_hpc.fields.plausible_ranges import check_possible
from climax_hpc.fields.variables import REGISTRY, Variable, channels_of, in_registry_order
from climax_hpc.inference.xarray_times import seconds_of, with_time

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Piece:
    """One channel over some times: a lazy array (time, lat, lon) or, for static fields, (lat, lon)."""

    channel: str
    """Registry name."""
    array: xr.DataArray
    scale: float
    offset: float


class XarrayInitialConditions:
    """States in one or more xarray data sets on one global grid, regridded on request."""

    def __init__(
        self, datasets: Sequence[xr.Dataset], name: str, *, target: Grid | None = None, regrid: str | None = None
    ) -> None:
        """Find variables, times and grid; `regrid` is the method for another grid than `target`.

        Raises:
            UserError: no usable variable, unknown units, no time that all variables have, files of several runs, or a
            grid that is not global or not the target.
        """
        self.name = name
        _refuse_two_runs(datasets, name)
        pieces = _find_pieces(datasets, name)
        dynamic = {key: found for key, found in pieces.items() if not REGISTRY[key].static}
        if not dynamic:
            names = sorted({str(v) for ds in datasets for v in ds.data_vars})
            _refuse_statistics_alone(datasets, name)
            raise UserError(
                f"{name}: none of {', '.join(names) or 'its 0 variables'} is a registry or CMIP6 name of a field that "
                "varies in time; rename them"
            )
        arrays = [piece.array for found in pieces.values() for piece in found]
        self._orientation = _orientation(arrays, datasets, name)
        self._regridder = _regridder_to(self._orientation.grid, target, regrid, name)
        self.grid = target if target is not None else self._orientation.grid
        self.channels, self.tendencies = in_registry_order(dynamic), ()
        self.calendar, times = _times([piece for found in dynamic.values() for piece in found], name)
        self._places = {
            channel: _index_times(dynamic[channel], times, f"{name}: {channel}") for channel in self.channels
        }
        common = set.intersection(*(set(places) for places in self._places.values()))
        if not common:
            raise UserError(f"{name}: no time at which all of {', '.join(self.channels)} are there; leave some out")
        self.hours: Array = np.array(sorted(common), np.float64) / 3600
        self._fixed = {key: found[0] for key, found in pieces.items() if REGISTRY[key].static}
        fields = {key: self._field(piece, None) for key, piece in self._fixed.items()}
        methods = {name: str(found[0].array.attrs.get("cell_methods", "")) for name, found in dynamic.items()}
        self.cell_methods = {name: text for name, text in methods.items() if text}
        columns = self.grid.shape[1]
        self.static = {"latitude": np.repeat(self.grid.lat[:, None], columns, axis=1)} | fields

    def identity(self, time_indices: Sequence[int]) -> str:
        """What tells apart two states of the input: a sha256 of its values at these times and of static fields."""
        digest = hashlib.sha256()
        for channel, piece in self._fixed.items():
            digest.update(channel.encode() + np.ascontiguousarray(piece.array.values).tobytes())
        for second in [round(float(self.hours[t]) * 3600) for t in time_indices]:
            for channel in self.channels:
                piece, index = self._places[channel][second]
                values = np.ascontiguousarray(piece.array[index].values)
                digest.update(f"{channel} {second}".encode() + values.tobytes())
        return digest.hexdigest()

    def read(self, time_index: int) -> Array:
        """The state (C, H, W) at one time; NaN is missing."""
        second = round(float(self.hours[time_index]) * 3600)
        return np.stack([self._field(*self._places[channel][second]) for channel in self.channels])

    def _field(self, piece: _Piece, index: int | None) -> Array:
        values = piece.array.values if index is None else piece.array[index].values
        field = self._orientation.apply(values.astype(np.float64) * piece.scale + piece.offset)
        if np.isinf(field).any():
            raise UserError(f"{self.name}: {piece.array.name} has infinite values; fix the input")
        check_possible(field, piece.channel, f"{self.name}: {piece.array.name}")
        return self._regridder(np.ascontiguousarray(field)[None])[0] if self._regridder else field


def _refuse_two_runs(datasets: Iterable[xr.Dataset], name: str) -> None:
    """Refuse files of several runs, by their global attributes; static fields may be of another run.

    Raises:
        UserError: names the attribute and two of its values.
    """
    runs = [ds.attrs for ds in datasets if any(not v.static for key in ds.data_vars for v in _known(str(key)))]
    for facet in IDENTITY:
        values = sorted({str(run[facet]) for run in runs if facet in run})
        if len(values) > 1:
            raise UserError(
                f"{name}: its files are of several runs ({facet} {' and '.join(values[:2])}); give those of one run"
            )


def _refuse_statistics_alone(datasets: Iterable[xr.Dataset], name: str) -> None:
    """Refuse the statistics of an ensemble that were written without its members.

    Raises:
        UserError: names one of them.
    """
    for key, variable in ((key, variable) for ds in datasets for key, variable in ds.data_vars.items()):
        if member_methods(attribute(variable, "cell_methods")):
            raise UserError(
                f"{name}: {key} is a statistic of the members of an ensemble, and there are no states beside it; give "
                "analyses, or forecasts with their members"
            )


def _known(name: str) -> list[Variable]:
    """Registry variables that an input variable of this name holds."""
    return [REGISTRY[name]] if name in REGISTRY else channels_of(name) or _on_levels(name)


def _find_pieces(datasets: Iterable[xr.Dataset], name: str) -> dict[str, list[_Piece]]:
    pieces: dict[str, list[_Piece]] = {}
    for dataset in datasets:
        file = from_xarray(dataset)
        for variable in dataset.data_vars.values():
            for channel, array in _channels_in(variable, file, name):
                units = str(variable.attrs.get("units", ""))
                scale, offset = _conversion(channel, units, f"{name}: {variable.name}")
                pieces.setdefault(channel.name, []).append(
                    _Piece(channel=channel.name, array=array, scale=scale, offset=offset)
                )
    return pieces


def _channels_in(variable: xr.DataArray, file: ArrayDataset, name: str) -> list[tuple[Variable, xr.DataArray]]:
    """Registry channels of one variable, each with its array (time, lat, lon) or (lat, lon)."""
    key = str(variable.name)
    known = _known(key)
    if not known:
        return []
    try:
        refuse_text(file.variables[key])
        refuse_region(region_of(file.attributes))
        refuse_branding(branding_of(file.attributes), known[0].variable_id or "")
        refuse_other_method(branding_of(file.attributes), attribute(variable, "cell_methods"), key)
        refuse_statistics(attribute(variable, "cell_methods"))
        refuse_other_quantity(file.variables[key], known[0].variable_id or "", f"{name}: {key}")
        refuse_other_height(file, file.variables[key], known[0].variable_id or "")
    except Unusable as error:
        raise UserError(f"{name}: {key}: {error}") from None
    level = axis_of(file, file.variables[key], "level")
    if known[0].level_hpa is None or (key in REGISTRY and level is None):
        return [(known[0], _plain(variable, known[0], file, name))]
    if level is None:
        names = ", ".join(COORDINATES["level"].names[:3])
        raise UserError(f"{name}: {key} has no pressure level ({names}); take pressure levels")
    levels_hpa = _levels_hpa(level, f"{name}: {key}")
    places = select_levels([int(v.level_hpa) for v in known if v.level_hpa is not None], levels_hpa)
    if key in REGISTRY and not places:
        held = ", ".join(f"{one:g}" for one in levels_hpa)
        raise UserError(f"{name}: {key} lies at {held} hPa ({level.name}), unlike its name; correct one of them")
    return [
        (entry, _plain(variable.isel(dict.fromkeys(level.dimensions, places[entry.level_hpa])), entry, file, name))
        for entry in known
        if entry.level_hpa in places
    ]


def _on_levels(stem: str) -> list[Variable]:
    """Channels of a WeatherBench name without its level."""
    return [v for v in REGISTRY.values() if v.level_hpa is not None and v.stem == stem]


def _levels_hpa(level: ArrayVariable, what: str) -> list[float]:
    """Pressure levels [hPa].

    Raises:
        UserError: the levels are not pressure.
    """
    try:
        return pressure_levels(level, numbers(level))
    except Unusable as error:
        raise UserError(f"{what}: {error}") from None


def _plain(array: xr.DataArray, entry: Variable, file: ArrayDataset, name: str) -> xr.DataArray:
    """The array as (time, lat, lon), or (lat, lon) if static; other dimensions must have length 1."""
    try:
        axes = horizontal(file, file.variables[str(array.name)])
    except Unusable as error:
        raise UserError(f"{name}: {array.name} lies on no latitude-longitude grid: {error}") from None
    wanted = [axis.name for axis in axes]
    array = array.swap_dims({axis.dimensions[0]: axis.name for axis in axes if axis.dimensions != (axis.name,)})
    if not entry.static:
        timed = with_time(array, file, name)
        if timed is None:
            raise UserError(f"{name}: {array.name} has no coordinate `time`, so its forecast has no date; give it one")
        array, wanted = timed, ["time", *wanted]
    for dimension in [d for d in array.dims if d not in wanted]:
        if array.sizes[dimension] != 1 and dimension != "time":
            raise UserError(
                f"{name}: {array.name} has a dimension {dimension} of length {array.sizes[dimension]}; select one "
                "entry first"
            )
        array = array.isel({dimension: 0}, drop=True)
    return array.transpose(*wanted)


def _conversion(entry: Variable, units: str, what: str) -> tuple[float, float]:
    """(scale, offset) to the registry's units."""
    if units.replace("**", "").replace("^", "") == entry.units:
        return 1.0, 0.0
    if entry.cmip6 is None:
        return 1.0, 0.0  # latitude: replaced by the grid's own
    return conversion(entry.cmip6, units, what, remedy="set the attribute `units` of the variable")


def _orientation(arrays: Sequence[xr.DataArray], datasets: Sequence[xr.Dataset], name: str) -> Orientation:
    """The grid of all arrays, and the reordering of fields that it needs.

    Raises:
        UserError: the arrays are on different grids, or the grid is not global.
    """
    first = arrays[0]
    axes = [first[first.dims[k]] for k in (-2, -1)]
    for array in arrays[1:]:
        for axis, k in zip(axes, (-2, -1), strict=True):
            other = array[array.dims[k]].values
            if len(other) != axis.size or not np.allclose(other, axis.values, rtol=0, atol=1e-4):
                raise UserError(
                    f"{name}: {first.name} and {array.name} lie on different grids; regrid them to one first"
                )
    lat, lon = (axis.values.astype(np.float64) for axis in axes)
    try:
        lat_bnds, lon_bnds = (_edges(axis, datasets) for axis in axes)
        return orient(lat, lon, lat_bnds, lon_bnds)
    except Unusable as error:
        raise UserError(f"{name}: {error}") from None


def _edges(axis: xr.DataArray, datasets: Sequence[xr.Dataset]) -> Array | None:
    """Cell edges (n, 2) of a coordinate if a data set has them, else None."""
    for dataset in datasets:
        for name in bounds_names(str(axis.name), axis):
            if name in dataset.variables and dataset[name].shape == (axis.size, 2):
                edges = numbers(from_xarray(dataset[[name]]).variables[name])
                return edges if np.isfinite(edges).all() else None
    return None


def _regridder_to(source: Grid, target: Grid | None, method: str | None, name: str) -> Regridder | None:
    """The regridder to the grid of the model; None if the input is on it already.

    Raises:
        UserError: regridding is needed but no method is set, or the method is unknown.
    """
    if method not in (None, "conservative", "bilinear"):
        raise UserError(f"regrid: {method!r} is unknown; use conservative or bilinear")
    if target is None or source.same_centres(target):
        return None
    if method is None:
        rows, columns = source.shape
        raise UserError(
            f"{name} lies on {rows} × {columns} cells ({source.lat[0]:.3f}° … {source.lat[-1]:.3f}° N, from "
            f"{source.lon[0]:.3f}° E), the model on {target.shape[0]} × {target.shape[1]} ({target.lat[0]:.3f}° … "
            f"{target.lat[-1]:.3f}° N, from {target.lon[0]:.3f}° E): set regrid to conservative or bilinear"
        )
    return regridder(source, target, method)


def _times(pieces: Sequence[_Piece], name: str) -> tuple[str, dict[int, NDArray[np.int64]]]:
    """The calendar, and by id of its time coordinate the seconds since 1850 of every piece."""
    calendars, seconds = set(), {}
    for piece in pieces:
        axis = piece.array["time"]
        calendar, stamps = seconds_of(axis, name)
        calendars.add(calendar)
        seconds[id(piece)] = stamps
    if len(calendars) > 1:
        raise UserError(f"{name}: its variables have several calendars ({', '.join(sorted(calendars))}); use one")
    return calendars.pop(), seconds


def _index_times(
    pieces: Sequence[_Piece], seconds: Mapping[int, NDArray[np.int64]], what: str
) -> dict[int, tuple[_Piece, int]]:
    """Seconds since 1850 -> the piece and the index in it.

    Raises:
        UserError: a time occurs twice.
    """
    places: dict[int, tuple[_Piece, int]] = {}
    for piece in pieces:
        for index, second in enumerate(seconds[id(piece)].tolist()):
            if second in places:
                raise UserError(f"{what} has one time twice, in one file or in two; remove one")
            places[second] = (piece, index)
    return places


def describe(values: Any) -> str:
    """A short name for data sets given from Python."""
    source = getattr(values, "encoding", {}).get("source", "")
    return Path(source).name if source else "the data set"
