"""Initial conditions of forecasts: states of a packed source in physical units, and its climatology.

Dimensions: T time steps · C dynamic channels · H, W grid.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import cftime
import numpy as np
from numpy.typing import NDArray

from climax_hpc.data.batches import VariableProvider
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.errors import UserError
from climax_hpc.fields.calendars import at_multiples
from climax_hpc.fields.grid import Grid
from climax_hpc.fields.periods import TIME_UNITS, period_hours

Array = NDArray[np.float64]


class InitialConditions(VariableProvider, Protocol):
    """States by time in the registry's units on a global grid with ascending rows; `static` includes latitude."""

    @property
    def grid(self) -> Grid:
        """Grid of every field."""
        ...

    @property
    def calendar(self) -> str:
        """CF calendar of the times."""
        ...

    @property
    def hours(self) -> Array:
        """Times (T,), hours since 1850-01-01 in the calendar, ascending."""
        ...

    @property
    def cell_methods(self) -> Mapping[str, str]:
        """Registry name -> CF cell methods, where the input states them: instants or means."""
        ...

    def read(self, time_index: int) -> Array:
        """The state (C, H, W) at one time; NaN is missing."""
        ...


class ShardInitialConditions:
    """The states of one source of a packed data set."""

    def __init__(self, source: PackedSource) -> None:
        self.name, self.channels, self.static = source.name, source.channels, source.static
        self.tendencies: tuple[str, ...] = ()
        self.grid, self.calendar, self.hours = source.grid, source.calendar, source.hours
        self._source = source
        self._mean_C11, self._std_C11 = (a[:, None, None] for a in (source.mean_C, source.std_C))

    @property
    def cell_methods(self) -> Mapping[str, str]:
        """Registry name -> CF cell methods of the files that the source was packed from."""
        return self._source.cell_methods

    def identity(self, _time_indices: Sequence[int]) -> str:
        """What tells apart two states of the input: of all its files, whatever the times."""
        return _identity_of(self._source)

    def read(self, time_index: int) -> Array:
        """The state (C, H, W) at one time; NaN is missing."""
        return self._source.read(time_index).astype(np.float64) * self._std_C11 + self._mean_C11


def choose_source(dataset: DataSet, name: str | None, key: str) -> PackedSource:
    """The source of this name, or the only source where the name is None; `key` is the setting that holds the name.

    Raises:
        UserError: no such source, or several sources and no name.
    """
    if name is None and len(dataset.sources) > 1:
        raise UserError(f"{key}: {dataset.folder} holds {', '.join(sorted(dataset.sources))}; name one")
    return dataset.select([name] if name else None)[0]


def _identity_of(source: PackedSource) -> str:
    """A sha256 of those of its files."""
    return hashlib.sha256("\n".join(entry.sha256 for entry in source.files).encode()).hexdigest()


class ShardClimatology:
    """The climatology of a packed source in physical units: anomalies are departures from it."""

    def __init__(self, source: PackedSource) -> None:
        self.name, self.channels, self.grid = source.name, source.channels, source.grid
        self._source = source
        self._mean_C11, self._std_C11 = (a[:, None, None] for a in (source.mean_C, source.std_C))

    @property
    def identity(self) -> str:
        """What tells apart two states of its source."""
        return _identity_of(self._source)

    def at(self, hours: float, calendar: str) -> Array:
        """The climatology (C, H, W) for the day of year and hour of a time [hours since 1850].

        Raises:
            UserError: the climatology has another calendar, or lacks this day and hour.
        """
        date = date_of(hours, calendar)
        if date.minute or date.second:
            raise UserError(f"the climatology of source {self.name} has full hours only; got {date.isoformat()}")
        return self._source.read_climatology_of(date) * self._std_C11 + self._mean_C11

    def check_calendar(self, calendar: str) -> None:
        """Raises UserError if its days of the year are not those of the calendar."""
        self._source.check_calendar(calendar)


def date_of(hours: float, calendar: str) -> cftime.datetime:
    """Calendar date of hours since 1850, to the second."""
    return cftime.num2date(round(hours * 3600), TIME_UNITS.replace("hours", "seconds", 1), calendar=calendar)


def choose_starts(states: InitialConditions, period: tuple[str, str] | None, every_hours: float | None) -> list[int]:
    """Time indices within `period` (None: all) whose hours since 1850 are multiples of `every_hours` (None: all).

    Raises:
        UserError: no time is left; names the first and last time of the input.
    """
    chosen = np.ones(len(states.hours), bool)
    if period:
        lower, upper = period_hours(period, states.calendar)
        chosen &= (states.hours >= lower) & (states.hours < upper)
    if every_hours:
        chosen &= at_multiples(states.hours, every_hours)
    if not chosen.any():
        first, last = (date_of(states.hours[i], states.calendar).isoformat() for i in (0, -1))
        raise UserError(
            f"period and start_every_hours select no start time of {states.name}, which covers {first} to {last}: "
            "widen them"
        )
    return np.flatnonzero(chosen).tolist()
