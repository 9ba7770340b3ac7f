"""`climax-hpc simulate`: runs a real general circulation model (jcm) and writes its output as CMIP6-DRS NetCDF."""

import datetime as dt
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from climax_hpc.data_prep.simulation.jcm_parameter_sets import DESCRIPTIONS, PARAMETER_SETS
from climax_hpc.data_prep.simulation.jcm_variables import FIXED_VARIABLES, LEVEL_VARIABLES, SURFACE_VARIABLES
from climax_hpc.data_prep.simulation.jcm_venv import default_venv, ensure_venv, run_streaming
from climax_hpc.distributed.signals import terminated_as_exit
from climax_hpc.errors import UserError
from climax_hpc.fields.variables import REGISTRY, in_registry_order, lookup

MIP_ERA = "CMIP6-format"  # first level of the tree: not "CMIP6", so that nobody takes the files for a CMIP6 product
INSTITUTION_ID, ACTIVITY_ID, EXPERIMENT_ID, GRID_LABEL = "climax-hpc", "RFMIP", "piClim-control", "gn"
DRIVER = Path(__file__).with_name("jcm_driver.py")
STEP = dt.timedelta(hours=6)
BLOCK_DAYS = 10  # days per compiled call of the model; output of a block stays well below 1 GB up to T42
GRID_SIZE = {21: "64x32", 31: "96x48", 42: "128x64"}  # longitudes × latitudes
NOMINAL_RESOLUTION = {21: "500 km", 31: "500 km", 42: "250 km"}  # CMIP6's classes of mean cell size
AVAILABLE = [name for name, v in REGISTRY.items() if v.cmip6 in {*LEVEL_VARIABLES, *SURFACE_VARIABLES}]
Segment = tuple[dt.datetime, dt.datetime]


@dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    """One simulation: which model, which period, what is kept, and where."""

    out: str
    """Folder of the CMIP6-DRS tree; several simulations may share it."""
    parameter_set: str = "JCM-A"
    """Named set of physics parameters = `source_id` (jcm_parameter_sets.py); default: SPEEDY as released."""
    start: str = "2001-01-01"
    """First day of the kept period, YYYY-MM-DD; the year only labels, for the boundary conditions are a climatology."""
    years: int | None = None
    """Length of the kept period [years]; give this or `days`."""
    days: int | None = None
    """Length of the kept period [days]; give this or `years`."""
    window: str | None = None
    """Calendar days kept in every year, MM-DD:MM-DD, both inclusive (12-15:01-15 spans the new year); none = all."""
    spin_up_days: int = 180
    """Days before `start` that are thrown away; default: enough to forget the state of rest it starts from."""
    channels: list[str] | None = None
    """Registry names to write (geopotential_500, 2m_temperature, …); none = all that the model has. Orography and land
    share are always written."""
    truncation: int = 21
    """Triangular spectral truncation: 21 (64×32), 31 (96×48) or 42 (128×64 Gaussian grid); default: the cheapest."""
    layers: int = 8
    """Model levels, 5 to 40; default: SPEEDY's 8."""
    member: int = 1
    """Realisation number, the r of r1i1p1f1."""
    seed: int | None = None
    """Seed of the pressure noise in the initial state; none = `member`. Another seed gives other weather."""
    quantise: bool = True
    """Pack as int16 in absolute steps (zg 1 m, ta 0.05 K, winds 0.05 m/s, …; jcm_variables.py) instead of float32."""
    version: str | None = None
    """DRS version folder, vYYYYMMDD; none = today (UTC)."""
    venv: str | None = None
    """Python environment of the GCM, created where missing; none = $CLIMAX_HPC_JCM_VENV, else
    ~/.cache/climax_hpc/jcm-venv."""

    def __post_init__(self) -> None:
        if self.parameter_set not in PARAMETER_SETS:
            near = get_close_matches(self.parameter_set, PARAMETER_SETS, n=1, cutoff=0.3)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(PARAMETER_SETS)}"
            raise UserError(f"parameter_set: unknown {self.parameter_set!r}; {hint}")
        if self.truncation not in NOMINAL_RESOLUTION:
            raise UserError(f"truncation: {self.truncation} is not offered; use 21, 31 or 42")
        if not 5 <= self.layers <= 40:
            raise UserError(
                f"layers: {self.layers} is outside 5 to 40; SPEEDY's physics needs at least 5, 8 is standard"
            )
        if (self.years is None) == (self.days is None):
            raise UserError("years, days: give exactly one of the two, for example years: 3")
        for key, least in (("years", 1), ("days", 1), ("spin_up_days", 0), ("member", 1), ("seed", 0)):
            value = getattr(self, key)
            if value is not None and value < least:
                raise UserError(f"{key}: {value} is too small; give {least} or more")
        if self.version is not None and not re.fullmatch(r"v\d{8}", self.version):
            raise UserError(f"version: {self.version!r} is not of the form vYYYYMMDD, for example v20260101")
        _check_channels(self.channels)
        if not segments(self):
            raise UserError(
                f"window: {self.window} has no day in the period kept; lengthen years or days, or move start"
            )


def _check_channels(channels: list[str] | None) -> None:
    if channels is None:
        return
    if len(set(channels)) != len(channels):
        repeated = sorted({name for name in channels if channels.count(name) > 1})
        raise UserError(f"channels: {', '.join(repeated)} repeated; name each once")
    for name in channels:
        if lookup(name).cmip6 not in {*LEVEL_VARIABLES, *SURFACE_VARIABLES, *FIXED_VARIABLES}:
            raise UserError(f"channels: the GCM has no {name}; it has {', '.join(AVAILABLE)}")
    if not any(name in AVAILABLE for name in channels):
        raise UserError("channels: none that changes in time; name at least one, for example geopotential_500")


def _day(text: str, key: str) -> dt.datetime:
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        raise UserError(f"{key}: {text!r} is not of the form YYYY-MM-DD, for example 2001-01-01")
    try:
        return dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"{key}: {text!r} is no date ({error}); use for example 2001-01-01") from error


def _period(config: SimulateConfig) -> Segment:
    """Start and end (exclusive) of the kept period."""
    start = _day(config.start, "start")
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
            mend = "use a day that every year has, for example 02-28"
            raise UserError(f"window: {month:02}-{day:02} does not exist in every year; {mend}") from error
    return first, last


def segments(config: SimulateConfig) -> list[Segment]:
    """The kept segments of time as (first, last) instants, six-hourly, one per file; without a window one per year.

    Raises:
        UserError: `start` or `window` is no date.
    """
    start, end = _period(config)
    first, last = _window(config.window) if config.window else ((1, 1), (12, 31))
    found = []
    for year in range(start.year - 1, end.year + 1):
        a = dt.datetime(year, *first)
        b = dt.datetime(year + (last < first), *last) + dt.timedelta(days=1)
        a, b = max(a, start), min(b, end)
        if a < b:
            found.append((a, b - STEP))
    return found


def drs_member(config: SimulateConfig) -> Path:
    """The member's folder below `out`: mip_era/activity/institution/source/experiment/member."""
    return Path(MIP_ERA, ACTIVITY_ID, INSTITUTION_ID, config.parameter_set, EXPERIMENT_ID, f"r{config.member}i1p1f1")


def variables(config: SimulateConfig) -> dict[str, list[float]]:
    """CMIP6 variable -> pressure levels [Pa], descending as in CMIP6 (empty at the surface)."""
    wanted: dict[str, list[float]] = {}
    for name in in_registry_order(AVAILABLE if config.channels is None else config.channels):
        variable = lookup(name)
        if variable.cmip6 is None or variable.static:
            continue
        levels = wanted.setdefault(variable.cmip6, [])
        if variable.level_hpa is not None:
            levels.append(100.0 * variable.level_hpa)
    return {name: sorted(levels, reverse=True) for name, levels in wanted.items()}


COMMENT = (
    "Output of jcm (SPEEDY physics on the Dinosaur spectral core) with a climatological, yearly repeated sea surface "
    "temperature and sea ice, in the file format of CMIP6. NOT a CMIP6 product and not prepared by a CMIP6 centre: "
    "mip_era, institution_id and source_id are not registered; experiment_id piClim-control is the nearest CMIP6 name "
    "(prescribed climatological sea surface temperature), not a claim to follow its protocol. No diurnal cycle. "
    "Values on pressure levels below the ground are extrapolated. The years label an unforced climate."
)


def global_attributes(config: SimulateConfig) -> dict[str, object]:
    """What every file says of its origin; the driver adds the versions of jcm and jax."""
    changed = {f"{g}.{p}": v for g, values in PARAMETER_SETS[config.parameter_set].items() for p, v in values.items()}
    resolution = f"T{config.truncation}L{config.layers}"
    return {
        "Conventions": "CF-1.7",
        "title": f"{config.parameter_set}: output of the GCM jcm in CMIP6 format (not a CMIP6 product)",
        "comment": COMMENT,
        "mip_era": MIP_ERA,
        "activity_id": ACTIVITY_ID,
        "institution_id": INSTITUTION_ID,
        "institution": "made with climax_hpc; no modelling centre",
        "source_id": config.parameter_set,
        "source": f"{config.parameter_set}: jcm {resolution}, {DESCRIPTIONS[config.parameter_set]}",
        "source_type": "AGCM",
        "experiment_id": EXPERIMENT_ID,
        "sub_experiment_id": "none",
        "variant_label": f"r{config.member}i1p1f1",
        "realization_index": config.member,
        "initialization_index": 1,
        "physics_index": 1,
        "forcing_index": 1,
        "product": "model-output",
        "realm": "atmos",
        "grid_label": GRID_LABEL,
        "grid": f"native Gaussian grid {GRID_SIZE[config.truncation]}",
        "nominal_resolution": NOMINAL_RESOLUTION[config.truncation],
        "license": "MIT",
        "parameter_set": json.dumps(changed, sort_keys=True),
        "truncation": resolution,
        "seed": config.member if config.seed is None else config.seed,
        "spin_up_days": config.spin_up_days,
        "creation_date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def driver_settings(config: SimulateConfig, folder: Path) -> dict[str, object]:
    """What the driver reads; it runs where climax_hpc is not installed, so everything is plain data."""
    start, _ = _period(config)
    kept = segments(config)
    # Six hours early: jcm saves at the end of each interval, and the first instant kept is 00 UTC.
    begin = start - dt.timedelta(days=config.spin_up_days) - STEP
    whole_days = -(-(kept[-1][1] - begin) // dt.timedelta(days=1))
    block_days = min(BLOCK_DAYS, whole_days)
    return {
        "folder": str(folder),
        "parameters": PARAMETER_SETS[config.parameter_set],
        "truncation": config.truncation,
        "layers": config.layers,
        "seed": config.member if config.seed is None else config.seed,
        "begin": begin.isoformat(),
        "block_days": block_days,
        "blocks": -(-whole_days // block_days),
        "segments": [[first.isoformat(), last.isoformat()] for first, last in kept],
        "variables": variables(config),
        "quantise": config.quantise,
        "attributes": global_attributes(config),
        "facets": {
            "source_id": config.parameter_set,
            "experiment_id": EXPERIMENT_ID,
            "variant_label": f"r{config.member}i1p1f1",
            "grid_label": GRID_LABEL,
            "version": config.version or dt.datetime.now(dt.UTC).strftime("v%Y%m%d"),
        },
    }


def simulate(config: SimulateConfig, report: Callable[[str], None] = print) -> Path:
    """Run the simulation; returns the root of the tree (`config.out`), to be given to `climax-hpc pack`.

    The member's folder appears when it is complete: it is written beside its place and renamed.

    Raises:
        UserError: the output exists, the GCM's environment cannot be made, or the model failed.
    """
    out = Path(config.out).expanduser().resolve()
    member = out / drs_member(config)
    if member.exists():
        raise UserError(f"{member}: exists already; delete it, or give another member or out")
    with terminated_as_exit():
        python = ensure_venv(Path(config.venv).expanduser() if config.venv else default_venv(), report)
        _run(config, python, out, member, report)
    report(f"wrote {member}")
    return out


def _run(config: SimulateConfig, python: Path, out: Path, member: Path, report: Callable[[str], None]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        # Beside `out`, not in it: what a killed run leaves there is never found by `climax-hpc pack`.
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-{config.parameter_set}-partial-", dir=out.parent))
    except OSError as error:
        raise UserError(f"out: {out}: {error.strerror}; name a folder that you can write to") from error
    try:
        settings = scratch / "settings.json"
        settings.write_text(json.dumps(driver_settings(config, scratch / "member"), indent=1))
        prefix = f"{config.parameter_set} r{config.member}"
        argv = [str(python), str(DRIVER), str(settings)]
        status, tail = run_streaming(argv, lambda line: report(f"{prefix}: {line}"))
        if status:
            raise UserError(f"simulate: the GCM failed (exit status {status}): {tail}")
        member.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(scratch / "member", member)  # a rename, except where `out` is a mount point
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
