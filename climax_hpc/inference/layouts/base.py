"""What a layout must say: the variables of a store or of each file, and the place of every field in them.

Dimensions: M members · O channels of a forecast · H, W grid.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from climax_hpc.errors import UserError
from climax_hpc.inference.cf import FileLayout, ForecastContent


class Piece(NamedTuple):
    """One field and its place in a file."""

    variable: str
    """Name of the variable."""
    place: tuple[int, ...]
    """Place along its dimensions before latitude and longitude."""
    field_HW: NDArray[Any]
    """Field in the units of the file."""


class ForecastStore(Protocol):
    """Layout of one zarr store with all starts."""

    def store(self, start_hours: Sequence[float]) -> FileLayout:
        """The store, without its fields; starts in hours since 1850-01-01 in the calendar of the content."""
        ...

    def pieces(self, start: int, lead: int, member: int, fields_OHW: NDArray[Any]) -> Iterator[Piece]:
        """Every field of one forecast, given by the indices of its start, lead time and member."""
        ...

    def statistics(self, start: int, lead: int, members_MOHW: NDArray[Any]) -> Iterator[Piece]:
        """Every statistic over the members of one start and lead time."""
        ...


class ForecastFiles(Protocol):
    """Layout of NetCDF files, one or several per start."""

    def names(self, start_hours: float) -> dict[str, str]:
        """Key of a file of one start -> its name; the keys are the same for all starts."""
        ...

    def file(self, key: str, start_hours: float) -> FileLayout:
        """One file of a start, without its fields."""
        ...

    def pieces(self, lead: int, member: int, fields_OHW: NDArray[Any]) -> Iterator[tuple[str, Piece]]:
        """Key of the file of every field of one forecast, and the field."""
        ...

    def statistics(self, lead: int, members_MOHW: NDArray[Any]) -> Iterator[tuple[str, Piece]]:
        """Key of the file of every statistic over the members of one lead time, and the statistic."""
        ...


class WithoutStatistics:
    """A layout of members alone; `config.ensemble_output.check_statistics_layout` refuses statistics in it."""

    def statistics(self, *_forecasts: Any, **_more: Any) -> Iterator[Any]:
        """Nothing."""
        return iter(())


def refuse_means(content: ForecastContent, layout: str) -> None:
    """Refuse means over a window after the lead time, for layouts of states.

    Raises:
        UserError: names the window.
    """
    if content.mean_hours is not None:
        raise UserError(
            f"layout: {layout} holds states, but the models forecast means over {content.mean_hours:g} h: use "
            "layout: cf"
        )
