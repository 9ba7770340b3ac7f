"""Shows a store of anemoi-datasets (github.com/ecmwf/anemoi-datasets) as fields on latitudes and longitudes.

Such a store has one array `data` (dates, variables, ensemble, cells). Its variables are named in the attributes, with
the pressure level [hPa] after a line (`z_500`). The levels of a variable become one field, `z_pl`: `pl` is ECMWF's name
of pressure levels. Legend: T dates · V variables of a store · L levels · H, W grid.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.data_prep.sources.array_dataset import ArrayDataset, ArrayVariable
from climax_hpc.data_prep.sources.coordinates import Unusable
from climax_hpc.utils.names import shown

_ARRAYS = ("data", "dates", "latitudes", "longitudes")
_AXES = "dates, variables, ensemble, cells"
_ON_LEVEL = re.compile(r"([a-z]+)_(\d{1,4})")
_METHODS = {"average": "time: mean", "maximum": "time: maximum", "minimum": "time: minimum"}
"""anemoi's `process` of a variable -> CF cell methods; an accumulation is a sum, see `accumulated_hours`."""
_HOURS = re.compile(r"(\d+)h?")
_SAME_DEG = 1e-4


class CellArray:
    """Fields (T, H, W) or (T, L, H, W) of a store, as an array that is read when it is sliced."""

    def __init__(self, data: Any, dates_T: NDArray[np.int64], columns: list[int], shape: tuple[int, int]) -> None:
        """`dates_T`: places of the dates along `data`; `columns`: those of the variable, one for each level."""
        self._data, self._dates_T, self._columns, self._grid = data, dates_T, np.array(columns), shape
        self.shape: tuple[int, ...] = (len(dates_T), len(columns), *shape)
        self.dtype, self.ndim = data.dtype, len(self.shape)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """The fields of a key of integers and slices, one for each dimension from the first on."""
        parts = key if isinstance(key, tuple) else (key,)
        parts = (*parts, *[slice(None)] * (self.ndim - len(parts)))
        dates, columns = np.atleast_1d(self._dates_T[parts[0]]), np.atleast_1d(self._columns[parts[1]])
        fields_TLHW = self._read(dates, columns).reshape(len(dates), len(columns), *self._grid)
        leading = tuple(0 if isinstance(part, int | np.integer) else slice(None) for part in parts[:2])
        return fields_TLHW[(*leading, *parts[2:])]

    def _read(self, dates: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[Any]:
        """Values (T, L, cells); runs of dates apart, because missing dates between them have no chunks."""
        first, last = (int(columns.min()), int(columns.max())) if len(columns) else (0, -1)
        runs = np.split(dates, np.flatnonzero(np.diff(dates) != 1) + 1)
        parts = [
            self._data[int(run[0]) : int(run[-1]) + 1, first : last + 1, 0, :][:, columns - first]
            for run in runs
            if len(run)
        ]
        empty = np.empty((0, len(columns), self._data.shape[3]), self.dtype)
        return np.concatenate(parts) if parts else empty


class SurfaceArray:
    """The only level of a `CellArray`: fields (T, H, W)."""

    def __init__(self, cells: CellArray) -> None:
        self._cells = cells
        self.shape = (cells.shape[0], *cells.shape[2:])
        self.dtype, self.ndim = cells.dtype, len(self.shape)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """The fields of a key of integers and slices."""
        time, *place = key if isinstance(key, tuple) else (key,)
        return self._cells[(time, 0, *place)]


def is_anemoi(dataset: ArrayDataset) -> bool:
    """True for the arrays of a store of anemoi-datasets, before `as_fields`."""
    return all(name in dataset.variables for name in _ARRAYS) and "variables" in dataset.attributes


def as_fields(dataset: ArrayDataset) -> ArrayDataset:
    """The fields of a store that can be packed; any other data set as it is."""
    if not is_anemoi(dataset):
        return dataset
    try:
        return fields_of(dataset)
    except Unusable:  # the layout `anemoi` calls `fields_of` again, and lists the reason
        return dataset


def fields_of(dataset: ArrayDataset) -> ArrayDataset:
    """The variables of a store on (time, latitude, longitude), with `level_<name>` for those on levels.

    Dates that the store calls missing are left out.

    Raises:
        Unusable: the grid is not regular, there are several members, or attributes and arrays contradict each other.
    """
    data, names = dataset.variables["data"], _names(dataset)
    if data.shape[2] != 1:
        raise Unusable(
            f"it holds {data.shape[2]} members of an ensemble, expected 1; create it with one member (`number` in the "
            "recipe), or pack the members one by one"
        )
    lat, lon = _grid(dataset)
    dates, places_T = _dates(dataset)
    north, east = ({"standard_name": axis, "units": f"degrees_{way}"} for axis, way in _COORDINATES)
    since = {"standard_name": "time", "units": "seconds since 1970-01-01", "calendar": "standard"}
    found = {
        "time": ArrayVariable("time", ("time",), dates, since),
        "latitude": ArrayVariable("latitude", ("latitude",), lat, north),
        "longitude": ArrayVariable("longitude", ("longitude",), lon, east),
    }
    for name, levels in _grouped(dataset, names).items():
        columns = [names.index(stored) for stored in levels.values()]
        cells = CellArray(data, places_T, columns, (len(lat), len(lon)))
        about = _attributes(dataset, next(iter(levels.values())))
        horizontal = ("latitude", "longitude")
        if None in levels:
            found[name] = ArrayVariable(name, ("time", *horizontal), SurfaceArray(cells), about)
            continue
        axis, hpa = f"level_{name}", {"standard_name": "air_pressure", "units": "hPa", "positive": "down"}
        found[axis] = ArrayVariable(axis, (axis,), np.array([float(level or 0) for level in levels]), hpa)
        found[name] = ArrayVariable(name, ("time", axis, *horizontal), cells, about)
    return ArrayDataset(found, dataset.attributes)


_COORDINATES = (("latitude", "north"), ("longitude", "east"))


def metadata_of(dataset: ArrayDataset, name: str) -> Mapping[str, Any]:
    """What a store says of one of its variables; empty where it says nothing."""
    known = dataset.attributes.get("variables_metadata")
    found = known.get(name) if isinstance(known, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def accumulated_hours(dataset: ArrayDataset, name: str) -> float | None:
    """The period of a sum [h] that a store states of a variable; None where it states none."""
    known = metadata_of(dataset, name)
    period = known.get("period")
    if known.get("process") != "accumulation" or not isinstance(period, list | tuple) or len(period) != 2:
        return None
    start, end = (_HOURS.fullmatch(str(edge)) for edge in period)
    hours = float(end[1]) - float(start[1]) if start and end else 0.0
    return hours if hours > 0 else None


def _names(dataset: ArrayDataset) -> list[str]:
    """Names of the variables along `data`."""
    data, names = dataset.variables["data"], dataset.attributes["variables"]
    if data.ndim != 4:
        raise Unusable(f"its array `data` has {data.ndim} dimensions, expected 4 ({_AXES})")
    if not isinstance(names, list) or len(names) != data.shape[1] or len(set(map(str, names))) < len(names):
        count = len(names) if isinstance(names, list) else "no"
        raise Unusable(
            f"its attribute `variables` has {count} names, expected {data.shape[1]} different ones, as many as `data` "
            "has variables; create it again"
        )
    return [str(name) for name in names]


def _grouped(dataset: ArrayDataset, names: list[str]) -> dict[str, dict[int | None, str]]:
    """Name of a field -> its pressure levels [hPa], or None at the surface -> names in the store."""
    found: dict[str, dict[int | None, str]] = {}
    for name in names:
        match, mars = _ON_LEVEL.fullmatch(name), metadata_of(dataset, name).get("mars")
        kind = mars.get("levtype", "pl") if isinstance(mars, Mapping) else "pl"
        if match and kind == "pl":
            found.setdefault(f"{match[1]}_pl", {})[int(match[2])] = name
        else:
            found[name] = {None: name}
    return {name: dict(sorted(levels.items(), key=lambda e: e[0] or 0)) for name, levels in found.items()}


def _attributes(dataset: ArrayDataset, name: str) -> dict[str, str]:
    known = metadata_of(dataset, name)
    about = {"units": str(known["units"])} if known.get("units") else {}
    method = _METHODS.get(str(known.get("process", "")))
    return about | ({"cell_methods": method} if method else {})


def _dates(dataset: ArrayDataset) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Seconds since 1970 (T,) of the dates that the store has, and their places along its arrays."""
    dates, missing = dataset.variables["dates"][:], dataset.attributes.get("missing_dates")
    missing = [] if missing is None else missing
    if dates.dtype.kind != "M" or len(dates) != dataset.variables["data"].shape[0] or np.isnat(dates).any():
        raise Unusable(
            f"its array `dates` holds {len(dates)} values of type {dates.dtype}, expected "
            f"{dataset.variables['data'].shape[0]} dates, as many as `data` has; create it again"
        )
    try:
        if not isinstance(missing, list):
            raise ValueError
        absent = np.array([np.datetime64(str(date), "s") for date in missing], "M8[s]")
    except ValueError:
        text = shown(str(missing), 100)
        raise Unusable(f"its attribute `missing_dates` is {text}, expected dates such as 2020-01-01T06:00:00") from None
    seconds = dates.astype("M8[s]")
    places = np.flatnonzero(~np.isin(seconds, absent))
    return seconds[places].astype(np.int64), places


def _grid(dataset: ArrayDataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Latitudes (H,) and longitudes (W,) of cells in rows along a latitude.

    Raises:
        Unusable: the cells are not the product of both.
    """
    lat, lon = (_stored(dataset.variables[f"{axis}s"][:]) for axis, _ in _COORDINATES)
    cells = dataset.variables["data"].shape[3]
    stated = dataset.attributes.get("field_shape")
    if stated is not None and not (isinstance(stated, list) and all(type(n) is int for n in stated)):
        raise Unusable(
            f"its attribute `field_shape` is {shown(str(stated), 100)}, expected whole numbers, such as [181, 360]"
        )
    rows = stated[0] if stated is not None and len(stated) == 2 else _rows(lat)
    if lat.shape == lon.shape == (cells,) and rows > 0 and cells % rows == 0:
        lat_HW, lon_HW = lat.reshape(rows, -1), lon.reshape(rows, -1)
        same = (abs(lat_HW - lat_HW[:, :1]) < _SAME_DEG).all() and (abs(lon_HW - lon_HW[:1]) < _SAME_DEG).all()
        if same and min(lat_HW.shape) > 1:
            return lat_HW[:, 0], lon_HW[0]
    raise Unusable(
        f"its {cells} cells (field_shape {shown(str(stated), 100)}) are no rows of latitudes times columns of "
        "longitudes: a reduced Gaussian or unstructured grid, expected a regular one; create it on a regular grid "
        "(`grid: 1.0` in the recipe)"
    )


def _rows(lat: NDArray[np.float64]) -> int:
    """Number of rows, if each has as many cells as the first."""
    other = np.flatnonzero(abs(lat - lat[:1]) > _SAME_DEG)
    return len(lat) // int(other[0]) if len(other) else 0


def _stored(values: NDArray[Any]) -> NDArray[np.float64]:
    """Positions as they are stored: zarr gives these arrays the fill value 0, which is no missing value here."""
    return np.nan_to_num(np.asarray(values, np.float64), nan=0.0)
