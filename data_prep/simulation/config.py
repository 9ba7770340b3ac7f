"""Settings of `climax-hpc simulate`: the sources that they name, and the segments of time that they keep."""

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TypeVar

from climax_hpc.config.paths import ConfigPath
from climax_hpc.data_prep.simulation.dates import TimeSpan, day_of
from climax_hpc.data_prep.simulation.ensemble import Perturbation, check_ensemble, start_instants
from climax_hpc.data_prep.simulation.jcm_parameter_sets import PARAMETER_SETS
from climax_hpc.data_prep.simulation.jcm_variables import FIXED_VARIABLES, LEVEL_VARIABLES, SURFACE_VARIABLES
from climax_hpc.errors import UserError
from climax_hpc.fields.variables import REGISTRY, lookup
from climax_hpc.utils.bounds import bounded

STEP = dt.timedelta(hours=6)
NOMINAL_RESOLUTION = {21: "500 km", 31: "500 km", 42: "250 km"}
"""Spectral truncation -> CMIP6's class of mean cell size."""
AVAILABLE = [name for name, v in REGISTRY.items() if v.cmip6 in {*LEVEL_VARIABLES, *SURFACE_VARIABLES}]
"""Registry names that the model can write and that change in time."""
Value = TypeVar("Value", str, int)


@dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    """Simulations: models, period, what to write, and where.

    Raises:
        UserError: an invalid value; the message names the key and the fix.
    """

    output: ConfigPath
    """Folder of the CMIP6-DRS tree; several simulations may share it."""
    parameter_set: str | list[str] = "JCM-A"
    """Named set of physics parameters, also the `source_id`: JCM-A (SPEEDY as released) or JCM-B, JCM-C, JCM-D, JCM-E
    (jcm_parameter_sets.py). A list simulates each of them."""
    start: str = "2001-01-01"
    """First day of the kept period, YYYY-MM-DD; the year is only a label, since the boundary conditions are a
    climatology."""
    years: int | None = bounded(None, 8000)
    """Length of the kept period [years]; give this or `days`."""
    days: int | None = bounded(None, 3_000_000)
    """Length of the kept period [days]; give this or `years`."""
    window: str | None = None
    """Calendar days kept in every year, MM-DD:MM-DD, both inclusive (12-15:01-15 spans the new year); null: all."""
    spin_up_days: int = bounded(180, 100_000)
    """Days simulated before `start` and discarded; the default is enough to forget the initial state of rest."""
    variables: list[str] | None = None
    """Registry names to write (geopotential_500, 2m_temperature, …); null: all that the model has. Orography and land
    fraction are always written."""
    truncation: int = 21
    """Triangular spectral truncation: 21 (64×32), 31 (96×48) or 42 (128×64 Gaussian grid); the default is the
    cheapest."""
    layers: int = 8
    """Model levels, 5 to 40; the default is SPEEDY's."""
    realization: int | list[int] = bounded(1, 1_000_000)
    """Realisation number, the r of r1i1p1f1. A list simulates each of them, of every parameter set."""
    seed: int | None = bounded(None, 2**63 - 1)
    """Seed of the pressure noise in the initial state; null: `realization`. Another seed gives other weather."""
    members: int | None = bounded(None, 1000)
    """Members of a perfect-model ensemble, labelled r1i2p1f1, r2i2p1f1, …: at every start, so many perturbed copies of
    the state of the simulation, which is their control, are simulated with the same model; null: no ensemble."""
    starts: list[str] | None = None
    """Starts of the members at 00 UTC, YYYY-MM-DD, in what the control keeps, more than `member_hours` apart."""
    start_every_days: int | None = bounded(None, 3_000_000)
    """In place of `starts`: a start so many days after the other [days]."""
    start_period: tuple[str, str] | None = None
    """First and last day of the starts of `start_every_days`, YYYY-MM-DD; null: all that the control keeps."""
    member_hours: int = bounded(144, 876_600)
    """Length of the members, a multiple of 6 [h]. Their files begin six hours after the start."""
    perturbation: Perturbation = field(default_factory=Perturbation)
    """Size of the perturbations of the members' starts."""
    jobs: int | None = bounded(None, 4096)
    """Sources simulated at the same time; null: as many as this process has cores, and as the free memory allows."""
    quantise: bool = True
    """Write int16 in absolute steps (zg 1 m, ta 0.05 K, winds 0.05 m/s, …; jcm_variables.py) instead of float32."""
    version: str | None = None
    """DRS version folder, vYYYYMMDD; null: today (UTC)."""
    venv: ConfigPath | None = None
    """Python environment of the GCM, created if it is missing; null: $CLIMAX_HPC_JCM_VENV, else
    ~/.cache/climax_hpc/jcm-venv."""

    def __post_init__(self) -> None:
        _check_sources(self)
        if self.truncation not in NOMINAL_RESOLUTION:
            raise UserError(f"truncation: {self.truncation} is not available; use 21, 31 or 42")
        if not 5 <= self.layers <= 40:
            raise UserError(
                f"layers: {self.layers} is outside 5 to 40; SPEEDY's physics needs at least 5, 8 is standard"
            )
        if (self.years is None) == (self.days is None):
            raise UserError("years, days: give exactly one of the two, for example years: 3")
        for key, least in (("years", 1), ("days", 1), ("spin_up_days", 0), ("seed", 0), ("jobs", 1)):
            value = getattr(self, key)
            if value is not None and value < least:
                raise UserError(f"{key}: {value} is too small; give {least} or more")
        if self.version is not None and not re.fullmatch(r"v\d{8}", self.version):
            raise UserError(f"version: {self.version!r} is not of the form vYYYYMMDD, for example v20260101")
        _check_variables(self.variables)
        if not segments(self):
            raise UserError(
                f"window: {self.window} has no day in the kept period; increase years or days, or change start"
            )
        check_ensemble(self, segments(self))


@dataclass(frozen=True, kw_only=True)
class Source:
    """One of the simulations of a config: a model, a realisation of it, and what the sources share."""

    config: SimulateConfig
    """The shared settings."""
    parameter_set: str
    """See `SimulateConfig`."""
    realization: int
    """See `SimulateConfig`."""

    @property
    def seed(self) -> int:
        """Seed of the initial noise."""
        return self.realization if self.config.seed is None else self.config.seed

    @property
    def label(self) -> str:
        """Name in messages: `JCM-A r1`."""
        return f"{self.parameter_set} r{self.realization}"


def sources(config: SimulateConfig) -> list[Source]:
    """The sources that a config names: the parameter sets in their order, each with all its realisations."""
    return [
        Source(config=config, parameter_set=name, realization=realization)
        for name in _listed(config.parameter_set)
        for realization in _listed(config.realization)
    ]


def _listed(value: Value | list[Value]) -> list[Value]:
    return value if isinstance(value, list) else [value]


def _check_sources(config: SimulateConfig) -> None:
    names, numbers = _listed(config.parameter_set), _listed(config.realization)
    for key, values in (("parameter_set", names), ("realization", numbers)):
        if not values:
            raise UserError(f"{key}: the list is empty; give at least one, or leave the key out for its default")
        _check_no_repeats(key, values)
    for name in names:
        if name not in PARAMETER_SETS:
            near = get_close_matches(name, PARAMETER_SETS, n=1, cutoff=0.3)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(PARAMETER_SETS)}"
            raise UserError(f"parameter_set: unknown {name!r}; {hint}")
    for number in numbers:
        if number < 1:
            raise UserError(f"realization: {number} is too small; give 1 or more")
    if config.seed is not None and len(numbers) > 1:
        raise UserError(
            "seed: realisations with the same seed have the same weather; leave seed out, each has its own then"
        )


def _check_no_repeats(key: str, values: Sequence[str | int]) -> None:
    repeated = sorted({str(value) for value in values if values.count(value) > 1})
    if repeated:
        raise UserError(f"{key}: {', '.join(repeated)} repeated; list each once")


def _check_variables(names: list[str] | None) -> None:
    if names is None:
        return
    _check_no_repeats("variables", names)
    for name in names:
        if lookup(name).cmip6 not in {*LEVEL_VARIABLES, *SURFACE_VARIABLES, *FIXED_VARIABLES}:
            raise UserError(f"variables: the GCM has no {name}; choose from {', '.join(AVAILABLE)}")
    if not any(name in AVAILABLE for name in names):
        raise UserError("variables: none of them changes in time; add at least one, for example geopotential_500")


def kept_period(config: SimulateConfig) -> TimeSpan:
    """Start and end (exclusive) of the kept period."""
    start = day_of(config.start, "start")
    if config.days is not None:
        return start, start + dt.timedelta(days=config.days)
    assert config.years is not None
    year = start.year + config.years
    if (start.month, start.day) == (2, 29):
        return start, dt.datetime(year, 3, 1)
    return start, start.replace(year=year)


def _window(text: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and last (month, day) of a window."""
    found = re.fullmatch(r"(\d\d)-(\d\d):(\d\d)-(\d\d)", text)
    if not found:
        raise UserError(f"window: {text!r} is not of the form MM-DD:MM-DD, for example 01-01:01-30")
    first, last = (int(found[1]), int(found[2])), (int(found[3]), int(found[4]))
    for month, day in (first, last):
        try:
            dt.date(2001, month, day)
        except ValueError as error:
            fix = "use a day that every year has, for example 02-28"
            raise UserError(f"window: {month:02}-{day:02} does not exist in every year; {fix}") from error
    return first, last


def segments(config: SimulateConfig) -> list[TimeSpan]:
    """The kept segments of time as (first, last) six-hourly instants, one per file; one per year without a window.

    Raises:
        UserError: `start` or `window` is not a date.
    """
    start, end = kept_period(config)
    first, last = _window(config.window) if config.window else ((1, 1), (12, 31))
    found = []
    for year in range(start.year - 1, end.year + 1):
        a = dt.datetime(year, *first)
        b = dt.datetime(year + (last < first), *last) + dt.timedelta(days=1)
        a, b = max(a, start), min(b, end)
        if a < b:
            found.append((a, b - STEP))
    return found


def starts_of(config: SimulateConfig) -> list[dt.datetime]:
    """The starts of the ensemble, ascending."""
    return start_instants(config, segments(config))
