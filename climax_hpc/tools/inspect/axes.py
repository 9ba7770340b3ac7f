"""Axes of the figures of `inspect`: ticks at round degrees and dates, time with gaps, means of calendar years.

Shapes: T time steps.
"""

from typing import Any

import cftime
import numpy as np
from numpy.typing import NDArray

from climax_hpc.fields.calendars import Seconds, to_dates
from climax_hpc.tools.inspect.scan import Array, Scan

SECONDS_PER_YEAR = 365.25 * 86400
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def round_ticks(low: float, high: float) -> Array:
    """Multiples of a round number of degrees, three to six of them."""
    step = next((s for s in (1, 2, 5, 10, 20, 30, 45, 60, 90) if (high - low) / s <= 5), 90)
    return np.arange(np.ceil(low / step), np.floor(high / step) + 1) * float(step) + 0.0  # never -0°


def time_axis(
    seconds: Seconds, parts: list[NDArray[np.int64]], calendar: str
) -> tuple[NDArray[Any], list[float], list[str]]:
    """Position (T,) of each step, ticks, labels: time itself, or segments side by side if gaps prevail."""
    lengths = [int(np.ptp(seconds[part])) for part in parts]
    if len(parts) == 1 or sum(lengths) > 0.5 * np.ptp(seconds):
        return seconds, *time_ticks(seconds, calendar)
    space = max(sum(lengths) / (8 * len(parts)), 1.0)
    starts = np.cumsum([0, *(length + space for length in lengths[:-1])])
    at = np.concatenate([start + (seconds[p] - seconds[p[0]]) for start, p in zip(starts, parts, strict=True)])
    every = -(-len(parts) // 6)
    dates = to_dates(np.array([seconds[part[0]] for part in parts[::every]]), calendar)
    return at, starts[::every].tolist(), [f"{_MONTHS[d.month - 1]} {d.year}" for d in dates]


def year_means(found: Scan, channel: int, calendar: str) -> tuple[Array, Array]:
    """Mid-time [s] and mean of each calendar year that is nearly complete."""
    years = np.array([d.year for d in to_dates(found.seconds, calendar)])
    names, counts = np.unique(years, return_counts=True)
    whole = names[counts >= 0.9 * np.median(counts)]
    at = np.array([found.seconds[years == year].mean() for year in whole])
    return at, np.array([np.nanmean(found.series_TC[years == year, channel]) for year in whole])


def time_ticks(seconds: Seconds, calendar: str) -> tuple[list[float], list[str]]:
    """Three to six round dates: years, months or days."""
    first, last = to_dates(seconds[[0, -1]], calendar)
    years = np.ptp(seconds) / SECONDS_PER_YEAR
    if years >= 3:
        step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000) if years / s <= 6)
        dates = [(y, 1, 1) for y in range(-(-first.year // step) * step, last.year + 2, step)]
        labels = [str(y) for y, _, _ in dates]
    elif years >= 0.25:
        step = max(1, round(years * 12 / 5))
        months = range(12 * first.year + first.month - 1, 12 * last.year + last.month + 1, step)
        dates = [(m // 12, m % 12 + 1, 1) for m in months]
        labels = [f"{_MONTHS[m - 1]} {y}" for y, m, _ in dates]
    else:
        at = np.unique(np.linspace(seconds[0], seconds[-1], 4).round().astype(np.int64))
        hours = "" if np.ptp(seconds) > 8 * 86400 else ":%Hh"
        return list(map(float, at)), [_day_label(d, hours) for d in to_dates(at, calendar)]
    stamps: Any = cftime.date2num(
        [cftime.datetime(*d, calendar=calendar) for d in dates], "seconds since 1850-01-01 00:00:00", calendar
    )
    kept = [i for i, s in enumerate(stamps) if seconds[0] - 86400 * 16 <= s <= seconds[-1] + 86400 * 16]
    return [float(stamps[i]) for i in kept], [labels[i] for i in kept]


def _day_label(date: Any, hours: str) -> str:
    label = f"{date.day} {_MONTHS[date.month - 1]} {date.year}"
    return f"{date.day} {_MONTHS[date.month - 1]} {date.hour:02d} h" if hours else label
