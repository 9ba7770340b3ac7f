"""Inference with regional models: cuts their patches out of global states.

Dimensions: C channels · H, W the states' grid · h, w the domain's.
"""

from collections.abc import Mapping

from climax_hpc.checkpoint.format import Checkpoint
from climax_hpc.checkpoint.regional import domain_of
from climax_hpc.errors import UserError
from climax_hpc.fields.grid import Grid
from climax_hpc.fields.regional_grid import Domain, same_domain
from climax_hpc.inference.initial_conditions import Array, InitialConditions, ShardClimatology


def members_domain(checkpoints: Mapping[str, Checkpoint]) -> Domain | None:
    """The common domain of regional models; None for global models.

    Raises:
        UserError: regional and global models are mixed, or the regions differ.
    """
    domains = {label: domain_of(checkpoint) for label, checkpoint in checkpoints.items()}
    found = [domain for domain in domains.values() if domain]
    if not found:
        return None
    if len(found) < len(domains) or not same_domain(found[0], found):
        named = ", ".join(f"{label!r} of {d.region.name if d else 'the globe'}" for label, d in domains.items())
        raise UserError(f"models: the members of an ensemble must share one region, but {named}; run them separately")
    return found[0]


class RegionalInitialConditions:
    """States on the cells of a domain; missing where the larger grid has no cell."""

    def __init__(self, states: InitialConditions, domain: Domain) -> None:
        """Raises UserError if the states lack a cell of the region."""
        self._states, self._crop = states, domain.crop(states.grid, states.name)
        self.name, self.channels, self.tendencies = states.name, states.channels, states.tendencies
        self.grid, self.calendar, self.hours = domain.grid, states.calendar, states.hours
        self.static = {name: self._crop.apply(field) for name, field in states.static.items()}

    @property
    def cell_methods(self) -> Mapping[str, str]:
        """Those of the larger grid's states."""
        return self._states.cell_methods

    def read(self, time_index: int) -> Array:
        """The state (C, h, w) at one time; NaN is missing."""
        return self._crop.apply(self._states.read(time_index))


class RegionalClimatology:
    """A climatology on the cells of a domain."""

    def __init__(self, climatology: "ShardClimatology | RegionalClimatology", domain: Domain) -> None:
        """Raises UserError if the climatology lacks a cell of the region."""
        self._climatology, self._crop = climatology, domain.crop(climatology.grid, f"climatology {climatology.name}")
        self.name: str = climatology.name
        self.channels: list[str] | tuple[str, ...] = climatology.channels
        self.grid: Grid = domain.grid

    def at(self, hours: float, calendar: str) -> Array:
        """The climatology (C, h, w) of a time in hours since 1850."""
        return self._crop.apply(self._climatology.at(hours, calendar))

    def check_calendar(self, calendar: str) -> None:
        """Raises UserError if its days of the year are not those of the calendar."""
        self._climatology.check_calendar(calendar)
