"""The layout `cf`: registry names, levels as scalar coordinates, one file per start or one store.

Dimensions: M members · O channels of a forecast · H, W grid.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from numpy.typing import NDArray

from climax_hpc.inference.cf import FileLayout, ForecastContent, layout
from climax_hpc.inference.initial_conditions import date_of
from climax_hpc.inference.layouts.base import Piece

_KEY = "forecast"


class CfStore:
    """One store with the dimensions `forecast_reference_time` and `lead_time`."""

    def __init__(self, content: ForecastContent) -> None:
        self._content = content

    def store(self, start_hours: Sequence[float]) -> FileLayout:
        """See `ForecastStore.store`."""
        return layout(self._content, start_hours, single=False)

    def pieces(self, start: int, lead: int, member: int, fields_OHW: NDArray[Any]) -> Iterator[Piece]:
        """See `ForecastStore.pieces`."""
        index = self._content.place(start, lead, member=member)
        for name, field_HW in zip(self._content.variables, fields_OHW, strict=True):
            yield Piece(name, index, field_HW)

    def statistics(self, start: int, lead: int, members_MOHW: NDArray[Any]) -> Iterator[Piece]:
        """See `ForecastStore.statistics`."""
        yield from _statistics(self._content, (start, lead), members_MOHW)


class CfFiles:
    """One file per start, along the valid time."""

    def __init__(self, content: ForecastContent) -> None:
        self._content = content

    def names(self, start_hours: float) -> dict[str, str]:
        """See `ForecastFiles.names`."""
        return {_KEY: f"forecast_{date_of(start_hours, self._content.calendar):%Y%m%dT%H%M%S}.nc"}

    def file(self, key: str, start_hours: float) -> FileLayout:
        """See `ForecastFiles.file`."""
        return layout(self._content, [start_hours], single=True)

    def pieces(self, lead: int, member: int, fields_OHW: NDArray[Any]) -> Iterator[tuple[str, Piece]]:
        """See `ForecastFiles.pieces`."""
        index = self._content.place(lead, member=member)
        for name, field_HW in zip(self._content.variables, fields_OHW, strict=True):
            yield _KEY, Piece(name, index, field_HW)

    def statistics(self, lead: int, members_MOHW: NDArray[Any]) -> Iterator[tuple[str, Piece]]:
        """See `ForecastFiles.statistics`."""
        for piece in _statistics(self._content, (lead,), members_MOHW):
            yield _KEY, piece


def _statistics(content: ForecastContent, place: tuple[int, ...], members_MOHW: NDArray[Any]) -> Iterator[Piece]:
    for o, name in enumerate(content.variables):
        for statistic in content.statistics(name):
            for index, field_HW in statistic.fields(members_MOHW[:, o]):
                yield Piece(statistic.name, (*place, *index), field_HW)
