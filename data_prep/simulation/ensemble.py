"""Perfect-model ensembles of `climax-hpc simulate`: the starts of the members, and how they are perturbed."""

import datetime as dt
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from climax_hpc.data_prep.simulation.dates import TimeSpan, day_of
from climax_hpc.errors import UserError
from climax_hpc.utils.bounds import bounded

HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)
STEP_HOURS = 6
INITIALIZATION = 2
"""The i of r1i2p1f1: members start from perturbed states of a control, which starts from rest (i1)."""


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """What a member's start adds to the full state of the control: random fields, independent at every level.

    Their spectrum falls off above total wavenumber 12, so that they can grow; their amplitude is a root mean square
    over the globe. The defaults are about the accuracy of the written files, whose steps are 0.05 K and 0.05 m/s: small
    enough that no perturbation sets off convection at once.
    """

    temperature: float = bounded(0.05, 10)
    """Amplitude of the temperature perturbation [K]; 0: none."""
    wind: float = bounded(0.05, 20)
    """Amplitude of the perturbation of each wind component [m/s], made by vorticity alone; 0: none."""
    humidity: float = bounded(0.02, 1)
    """Relative amplitude of the perturbation of specific humidity; 0: none."""


class EnsembleSettings(Protocol):
    """What an ensemble is made of, of the keys of `config.SimulateConfig`, which explains them."""

    @property
    def members(self) -> int | None:
        """Members of each start."""

    @property
    def realization(self) -> int | list[int]:
        """Number of the control."""

    @property
    def starts(self) -> list[str] | None:
        """Dates of the starts."""

    @property
    def start_every_days(self) -> int | None:
        """Days between starts."""

    @property
    def start_period(self) -> tuple[str, str] | None:
        """First and last date of the starts."""

    @property
    def member_hours(self) -> int:
        """Length of a member."""

    @property
    def perturbation(self) -> Perturbation:
        """Size of the perturbations."""


def check_ensemble(config: EnsembleSettings, kept: Sequence[TimeSpan]) -> None:
    """Refuse settings of an ensemble that do not fit together.

    Raises:
        UserError: names the key and the fix.
    """
    given = [key for key in ("starts", "start_every_days", "start_period") if getattr(config, key) is not None]
    if config.members is None:
        if given:
            raise UserError(f"{given[0]}: needs members, the number of members of each start, for example members: 8")
        return
    if config.members < 2:
        raise UserError(f"members: {config.members} is too small; an ensemble has 2 or more")
    if isinstance(config.realization, list) and len(config.realization) > 1:
        raise UserError("realization: an ensemble has one control; give one number, or leave members out")
    if config.member_hours < STEP_HOURS or config.member_hours % STEP_HOURS:
        raise UserError(f"member_hours: {config.member_hours} is not a multiple of {STEP_HOURS} h; use for example 144")
    for key, value in asdict(config.perturbation).items():
        if value < 0:
            raise UserError(f"perturbation.{key}: {value:g} is negative; give an amplitude of 0 or more")
    if not any(asdict(config.perturbation).values()):
        raise UserError("perturbation: all amplitudes are 0, so that the members are the same; set one, in its unit")
    if (config.starts is None) == (config.start_every_days is None):
        raise UserError("starts, start_every_days: give exactly one of the two, for example start_every_days: 10")
    if config.starts is not None and config.start_period is not None:
        raise UserError("start_period: goes with start_every_days; starts names the dates itself")
    start_instants(config, kept)


def start_instants(config: EnsembleSettings, kept: Sequence[TimeSpan]) -> list[dt.datetime]:
    """The starts of an ensemble, ascending, at 00 UTC, all in what the control keeps: `kept`.

    Raises:
        UserError: a date that is no date or not kept, or starts not further apart than the members are long.
    """
    if config.starts is not None:
        found = [day_of(text, "starts") for text in config.starts]
        for one in found:
            if not _inside(one, kept):
                raise UserError(f"starts: {one:%Y-%m-%d} is not in the period and window that the control keeps")
    else:
        found = _regular(config, kept)
    if not found:
        raise UserError("starts: there is none in what the control keeps; widen start_period, or name dates in starts")
    for one, other in itertools.pairwise(found):
        if other - one <= config.member_hours * HOUR:
            raise UserError(
                f"starts: {one:%Y-%m-%d} and {other:%Y-%m-%d} are not in order and more than member_hours: "
                f"{config.member_hours} apart, so that the segments of a member's time axis stay apart; choose starts "
                "further apart, or shorter members"
            )
    return found


def _regular(config: EnsembleSettings, kept: Sequence[TimeSpan]) -> list[dt.datetime]:
    """Every `start_every_days` of `start_period`, both ends included, or of every kept segment."""
    every = config.start_every_days
    assert every is not None
    if every < 1:
        raise UserError(f"start_every_days: {every} is too small; give 1 or more")
    spans = kept
    if config.start_period is not None:
        first, last = (day_of(text, "start_period") for text in config.start_period)
        if last < first:
            raise UserError(f"start_period: {config.start_period[0]} is after {config.start_period[1]}; swap them")
        spans = [(first, last)]
    found = []
    for first, last in spans:
        days = range(0, (last - first) // DAY + 1, every)
        found += [instant for day in days if _inside(instant := first + day * DAY, kept)]
    return found


def _inside(instant: dt.datetime, kept: Sequence[TimeSpan]) -> bool:
    return any(first <= instant <= last for first, last in kept)


def ensemble_record(config: EnsembleSettings, starts: Sequence[dt.datetime]) -> dict[str, object]:
    """All settings that determine the members' fields, beside those of the control."""
    return {
        "members": config.members,
        "hours": config.member_hours,
        "starts": [one.isoformat() for one in starts],
        "perturbation": asdict(config.perturbation),
    }


def ensemble_words(config: EnsembleSettings) -> str:
    """What the members are, in a sentence of their files' headers."""
    sizes = config.perturbation
    return (
        f"i{INITIALIZATION}: perfect-model ensemble: the full state of the control at each start with random "
        f"perturbations of root mean square {sizes.temperature:g} K (temperature), {sizes.wind:g} m/s (each wind "
        f"component) and {sizes.humidity:g} (relative, specific humidity); the same model and boundary conditions"
    )
