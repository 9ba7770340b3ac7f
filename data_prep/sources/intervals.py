"""The interval that a time stamp stands for, and the statistic that values are of it.

Models stamp a mean at the start, the middle or the end of its interval. With bounds the stamp is not believed: every
step of a mean gets the middle of its interval, so that alignment, months, years and climatologies see the same time.
Extremes and climatologies are not means: they are refused.
"""

import re
from typing import Any

import numpy as np

from climax_hpc.data_prep.sources.coordinates import Unusable, attribute, bounds_of
from climax_hpc.errors import UserError
from climax_hpc.fields.calendars import Seconds, decode_times, iso

POINT, MEANS = "point", frozenset({"mean", "sum"})
_MEMBERS = {"realization", "ensemble", "member", "number"}
"""Names of the dimension of an ensemble; CF's standard name is the first."""
_METHOD = re.compile(r"((?:\w+: )+)(\w+)")


def time_methods(cell_methods: str) -> tuple[str, ...]:
    """Methods over time in CF cell methods, in their order: `time: minimum within days time: mean over days` has two.

    Comments in parentheses and other dimensions are left out.
    """
    return tuple(method for dimensions, method in _methods(cell_methods) if "time" in dimensions)


def member_methods(cell_methods: str) -> tuple[str, ...]:
    """Methods over the members of an ensemble in CF cell methods, in their order."""
    return tuple(
        method for dimensions, method in _methods(cell_methods) if _MEMBERS & set(re.findall(r"\w+", dimensions))
    )


def _methods(cell_methods: str) -> list[tuple[str, str]]:
    """Dimensions and method, in small letters, of each of the CF cell methods, without comments."""
    plain = " ".join(re.sub(r"\([^)]*\)", " ", cell_methods).replace(":", ": ").split())
    return [(dimensions, method) for dimensions, method in _METHOD.findall(plain.lower())]


def is_instantaneous(cell_methods: str) -> bool:
    """True if the CF cell methods say that values hold at a point of time."""
    methods = time_methods(cell_methods)
    return bool(methods) and set(methods) == {POINT}


def is_mean(cell_methods: str) -> bool:
    """True if the CF cell methods say that values are means or sums over time."""
    return bool(MEANS & set(time_methods(cell_methods)))


def refuse_statistics(cell_methods: str) -> None:
    """Refuse values that are neither means nor instants, by CF cell methods.

    Raises:
        Unusable: an extreme, a standard deviation or another statistic, over time or members; a climatology.
    """
    of_members = [method for method in member_methods(cell_methods) if method not in {POINT, "mean"}]
    if of_members:
        raise Unusable(
            f"its values are a {of_members[0]} over the members of an ensemble, no state (cell_methods: "
            f"{cell_methods}); leave it out"
        )
    others = [method for method in time_methods(cell_methods) if method not in {POINT, *MEANS}]
    if others:
        raise Unusable(
            f"its values are a {others[0]} over time, not a mean or an instant (cell_methods: {cell_methods}); leave "
            "it out"
        )
    if "over years" in cell_methods:
        raise Unusable(f"its steps are means over years, a climatology (cell_methods: {cell_methods}); leave it out")


def refuse_climatology(axis: Any) -> None:
    """Refuse a time axis of a climatology, by CF's attribute.

    Raises:
        Unusable: the axis has the attribute `climatology`.
    """
    if bounds := attribute(axis, "climatology"):
        raise Unusable(f"its time axis is that of a climatology ({bounds}), not of a series; leave it out")


def middle_of_intervals(
    dataset: Any, axis: Any, stamps: Seconds, units: str, calendar: str, file: str, cell_methods: str
) -> Seconds:
    """Times (T,) in the middle of the intervals of a time axis; the stamps where it has none, or values are points.

    Raises:
        UserError: an interval is empty, does not contain its stamp, or overlaps the next one.
    """
    bounds = bounds_of(dataset, axis)
    if bounds is None or is_instantaneous(cell_methods):
        return stamps
    seconds, _ = decode_times(bounds.ravel(), units, calendar, file)
    return middle_of_bounds(stamps, seconds.reshape(-1, 2), calendar, file)


def middle_of_bounds(stamps: Seconds, bounds_T2: Seconds, calendar: str, file: str) -> Seconds:
    """Times (T,) in the middle of intervals with these bounds; the stamps where all have length 0.

    Raises:
        UserError: an interval is empty, does not contain its stamp, or overlaps the next one.
    """
    lower, upper = np.sort(bounds_T2, axis=1).T
    if (lower == upper).all():
        return stamps  # CESM writes bounds of length 0 for instantaneous fields
    outside = (stamps < lower) | (stamps > upper) | (lower == upper)
    if outside.any():
        t = int(np.argmax(outside))
        raise UserError(
            f"{file}: time step {t} is stamped {iso(stamps[t], calendar)}, but its bounds are "
            f"{iso(lower[t], calendar)} to {iso(upper[t], calendar)}; correct the time axis or its bounds"
        )
    overlaps = lower[1:] < upper[:-1]
    if overlaps.any():
        t = int(np.argmax(overlaps))
        raise UserError(
            f"{file}: the intervals of time steps {t} and {t + 1} overlap (to {iso(upper[t], calendar)}, from "
            f"{iso(lower[t + 1], calendar)}); correct the bounds of the time axis"
        )
    return (lower + upper) // 2
