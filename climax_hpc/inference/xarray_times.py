"""Times of xarray arrays: the coordinate of time under any name, and the middle of the intervals of means."""

from typing import Any

import cftime
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from climax_hpc.data_prep.sources.array_dataset import ArrayDataset, ArrayVariable
from climax_hpc.data_prep.sources.branding import branding_of, methods_over_time
from climax_hpc.data_prep.sources.coordinates import Unusable, attribute, axis_of, bounds_names
from climax_hpc.data_prep.sources.intervals import is_instantaneous, middle_of_bounds, refuse_climatology
from climax_hpc.errors import UserError
from climax_hpc.fields.calendars import Seconds, decode_times, to_dates
from climax_hpc.fields.periods import TIME_UNITS


def with_time(array: xr.DataArray, file: ArrayDataset, name: str) -> xr.DataArray | None:
    """The array with a dimension `time`, whatever its input calls it; None where it has no coordinate of time.

    Its times are in the middle of the intervals of means, as in a packed data set.

    Raises:
        UserError: the times are of starts of forecasts or a climatology, no dates, or contradict their bounds.
    """
    try:
        time = axis_of(file, file.variables[str(array.name)], "time")
        if time is not None:
            refuse_climatology(time)
    except Unusable as error:
        raise UserError(f"{name}: {array.name}: {error}") from None
    if time is None or time.name not in array.coords:
        return None
    if time.ndim and time.dimensions != (time.name,):
        array = array.swap_dims({time.dimensions[0]: time.name})
    if time.name != "time":
        array = array.drop_vars("time", errors="ignore").rename({time.name: "time"})
    array = array if "time" in array.dims else array.expand_dims("time")
    bounds = _bounds(time, file)
    methods = methods_over_time(attribute(array, "cell_methods"), branding_of(file.attributes))
    if bounds is None or is_instantaneous(methods):
        return array
    calendar, stamps = seconds_of(array["time"], name)
    order, bounds_T2 = np.argsort(stamps, kind="stable"), _seconds_of_bounds(bounds, time, name)
    middle = np.empty_like(stamps)
    middle[order] = middle_of_bounds(stamps[order], bounds_T2[order], calendar, f"{name}: {array.name}")
    return array if np.array_equal(middle, stamps) else array.assign_coords(time=to_dates(middle, calendar))


def seconds_of(axis: xr.DataArray, name: str) -> tuple[str, Seconds]:
    """Calendar and seconds (T,) since 1850 of a coordinate.

    Raises:
        UserError: its values are no dates.
    """
    return _seconds(np.atleast_1d(axis.values), name)


def _seconds(values: NDArray[Any], name: str) -> tuple[str, Seconds]:
    if np.issubdtype(values.dtype, np.datetime64):
        since = (values - np.datetime64("1850-01-01")) / np.timedelta64(1, "s")
        return "standard", np.round(since).astype(np.int64)
    if len(values) and isinstance(values[0], cftime.datetime):
        calendar = str(values[0].calendar)
        numbers = cftime.date2num(values, TIME_UNITS.replace("hours", "seconds", 1), calendar)
        return calendar, np.round(np.asarray(numbers, np.float64)).astype(np.int64)
    raise UserError(f"{name}: `time` holds {values.dtype} values, not dates; open the file with decode_times=True")


def _bounds(time: ArrayVariable, file: ArrayDataset) -> NDArray[Any] | None:
    """Bounds (T, 2) of a coordinate of time, of any type; None if it has none, or one of them is missing."""
    for known in bounds_names(time.name, time):
        if known in file.variables and file.variables[known].shape == (*time.shape, 2):
            values = np.reshape(file.variables[known][:] if time.ndim else file.variables[known][()], (-1, 2))
            return None if np.any(values != values) else values
    return None


def _seconds_of_bounds(bounds: NDArray[Any], time: ArrayVariable, name: str) -> Seconds:
    """Seconds (T, 2) of bounds; xarray leaves those numbers that the coordinate does not name."""
    if bounds.dtype.kind in "iuf":
        calendar = attribute(time, "calendar") or "standard"
        seconds, _ = decode_times(bounds.astype(np.float64).ravel(), attribute(time, "units"), calendar, name)
    else:
        _, seconds = _seconds(bounds.ravel(), name)
    return seconds.reshape(-1, 2)
