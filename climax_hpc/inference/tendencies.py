"""Initial conditions and climatology with the tendencies as further channels, for models that take them.

Dimensions: C channels of the input, then their tendencies · H, W grid.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from climax_hpc.errors import UserError
from climax_hpc.fields.variables import TENDENCY_HOURS, lookup, tendency_name
from climax_hpc.inference.initial_conditions import Array, InitialConditions, date_of


class _Climatology(Protocol):
    """What is needed of a climatology."""

    @property
    def channels(self) -> Sequence[str]:
        """Registry names."""
        ...

    def at(self, hours: float, calendar: str) -> Array:
        """Fields (C, H, W) in physical units for a time [hours since 1850]."""
        ...


class StatesWithTendencies:
    """States and their changes over the last 6 h; an `InitialConditions`."""

    def __init__(self, states: InitialConditions) -> None:
        self._states = states
        self.name, self.static = states.name, states.static
        self.grid, self.calendar, self.hours = states.grid, states.calendar, states.hours
        self.channels = [*states.channels, *map(tendency_name, states.channels)]
        self.tendencies = ()

    @property
    def cell_methods(self) -> Mapping[str, str]:
        """Those of the states."""
        return self._states.cell_methods

    def read(self, time_index: int) -> Array:
        """The state and its tendencies (C, H, W) at one time; NaN is missing.

        Raises:
            UserError: there is no state 6 h before.
        """
        before = self.before(time_index)
        if before is None:
            when = date_of(self.hours[time_index], self.calendar).isoformat()
            raise UserError(
                f"{self.name}: the model takes tendencies, but there is no state {TENDENCY_HOURS:g} h before {when}: "
                "give that state too, or start later"
            )
        now_CHW = self._states.read(time_index)
        return np.concatenate([now_CHW, now_CHW - self._states.read(before)])

    def before(self, time_index: int) -> int | None:
        """Index of the time 6 h before; None where there is none."""
        found = np.flatnonzero(np.abs(self.hours - (self.hours[time_index] - TENDENCY_HOURS)) < 1e-3)
        return int(found[0]) if len(found) else None


class ClimatologyWithTendencies:
    """A climatology and its changes over the last 6 h."""

    def __init__(self, climatology: _Climatology) -> None:
        self._climatology = climatology
        self.channels = [*climatology.channels, *map(tendency_name, climatology.channels)]

    def at(self, hours: float, calendar: str) -> Array:
        """The climatology (C, H, W) of a time in hours since 1850."""
        now_CHW = self._climatology.at(hours, calendar)
        return np.concatenate([now_CHW, now_CHW - self._climatology.at(hours - TENDENCY_HOURS, calendar)])


def takes_tendencies(in_variables: Sequence[str]) -> bool:
    """True where one of the inputs is a tendency."""
    return any(lookup(name).tendency_of for name in in_variables)
