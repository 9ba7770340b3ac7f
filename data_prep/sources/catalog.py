"""Finds the input files below a folder, reads their facets, and groups them into sources of one frequency."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.sources.conversions import Alias, derivation_of
from climax_hpc.data_prep.sources.open_input import opened
from climax_hpc.errors import UserError
from climax_hpc.fields.calendars import STEP_HOURS
from climax_hpc.fields.variables import VARIABLE_IDS, channels_of, in_registry_order, lookup

_FREQUENCIES = {"6hrPt": "6hr", "3hrPt": "3hr", "1hrPt": "1hr", "monPt": "mon"}
_TABLE_FREQUENCY = re.compile(r"(1hr|3hr|6hr|day|mon|fx)", re.IGNORECASE)
_FILE_NAME = re.compile(
    r"(?P<variable_id>[A-Za-z0-9]+)_(?P<table_id>[A-Za-z0-9]+)_(?P<source_id>[^_]+)_(?P<experiment_id>[^_]+)"
    r"_(?P<variant_label>[^_]+)_(?P<grid_label>[^_.]+)(_.*)?\.nc"
)
_VERSION = re.compile(r"v\d+")
FACETS = ("source_id", "experiment_id", "variant_label", "table_id", "variable_id", "frequency", "grid_label")
_IDENTITY = ("mip_era", "activity_id", "institution_id", "source_id", "experiment_id", "variant_label")


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A file that is left out."""

    file: str
    """Path relative to the input folder."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file and its CMIP6 facets."""

    file: str
    """Path relative to the input folder, with slashes."""
    source_id: str
    experiment_id: str
    variant_label: str
    table_id: str
    variable_id: str
    frequency: str
    """`1hr`, `3hr`, `6hr`, `day`, `mon`, `yr`, `fx`, or what else the file says."""
    grid_label: str = ""
    version: str = ""
    """DRS version folder (`v20191115`), empty where there is none."""
    identity: tuple[tuple[str, str], ...]
    """Facets that say whose output this is."""
    name: str = ""
    """Name of the variable in the file; empty where it is `variable_id`."""
    alias: Alias | None = None
    """What is known of the variable beyond its file, in layouts that say less than CMIP6."""

    @property
    def source(self) -> str:
        """`<source_id>_<experiment_id>_<variant_label>`."""
        return f"{self.source_id}_{self.experiment_id}_{self.variant_label}"


@dataclass(kw_only=True)
class Source:
    """The files of one model run at one frequency."""

    name: str
    frequency: str
    entries: list[Entry] = field(default_factory=list)
    static: list[Entry] = field(default_factory=list)
    """Fields without time, the nearest relation of each."""


def discover(root: Path) -> tuple[list[Entry], list[Skipped]]:
    """All CMIP6 files below `root`, in order of their paths, and those that say too little of themselves.

    Raises:
        UserError: no file at all; a file that cannot be opened.
    """
    paths = sorted(path for path in root.rglob("*.nc") if path.is_file() and not path.name.startswith("."))
    if not paths:
        raise UserError(
            f"{root}: holds no NetCDF file (*.nc); name the folder of the CMIP6 download, or another layout"
        )
    entries, skipped = [], []
    for path in paths:
        file = path.relative_to(root).as_posix()
        entry = _read_entry(path, file)
        if isinstance(entry, Skipped):
            skipped.append(entry)
        else:
            entries.append(entry)
    return entries, skipped


def _read_entry(path: Path, file: str) -> Entry | Skipped:
    named = _FILE_NAME.fullmatch(path.name)
    facets: dict[str, str] = named.groupdict(default="") if named else {}
    with opened(path, file) as dataset:
        attributes = {name: str(dataset.getncattr(name)).strip() for name in dataset.ncattrs()}
    facets |= {name: attributes[name] for name in FACETS if attributes.get(name)}
    absent = [name for name in FACETS if name not in facets and name not in ("frequency", "grid_label")]
    if absent:
        return Skipped(file=file, reason=f"its header and name lack {', '.join(absent)}: not a CMIP6 file")
    frequency = facets.get("frequency", "")
    if not frequency:
        found = _TABLE_FREQUENCY.search(facets["table_id"])
        frequency = found.group(1).lower() if found else "unknown"
    versions = [part for part in Path(file).parts if _VERSION.fullmatch(part)]
    return Entry(
        file=file,
        frequency=_FREQUENCIES.get(frequency, frequency),
        grid_label=facets.get("grid_label", ""),
        version=versions[-1] if versions else "",
        identity=tuple((name, facets.get(name, attributes.get(name, ""))) for name in _IDENTITY),
        source_id=facets["source_id"],
        experiment_id=facets["experiment_id"],
        variant_label=facets["variant_label"],
        table_id=facets["table_id"],
        variable_id=facets["variable_id"],
    )


def group(
    entries: list[Entry], config: PackConfig, unread: Sequence[Skipped] = ()
) -> tuple[list[Source], list[Skipped]]:
    """Sources in order of their names, and the files left out with the reason; `unread` is for the message.

    Raises:
        UserError: variables that no file holds; nothing left; unknown source; several frequencies in one source.
    """
    usable, skipped = _usable(entries, config)
    usable, older = _newest_versions(usable)
    static = [e for e in usable if e.frequency == "fx"]
    dynamic = [e for e in usable if e.frequency != "fx"]
    if not dynamic:
        _refuse_variables(entries, config)
    names = select_names(sorted({e.source for e in dynamic}), config)
    sources = []
    for name in names:
        own = [e for e in dynamic if e.source == name]
        frequency = _one_frequency(name, own, config)
        if frequency is not None:
            kept = [e for e in own if e.frequency == frequency]
            sources.append(Source(name=name, frequency=frequency, entries=kept, static=_relatives(kept[0], static)))
    if not sources:
        reasons = telling_reasons([*unread, *skipped], 3) or "no file holds fields in time"
        raise UserError(f"input: nothing to pack ({reasons}); choose another input, frequency or variables")
    return sources, skipped + older


def telling_reasons(skipped: Sequence[Skipped], count: int) -> str:
    """Why files are left out, those first that a user can mend."""
    usual = ("is not in the registry", "is not among the variables asked for")
    ordered = sorted(skipped, key=lambda s: any(u in s.reason for u in usual))
    return "; ".join(f"{s.file}: {s.reason}" for s in ordered[:count])


def _usable(entries: list[Entry], config: PackConfig) -> tuple[list[Entry], list[Skipped]]:
    wanted = None if config.variables is None else with_ingredients(config.variables)
    usable, skipped = [], []
    for e in entries:
        channels = channels_of(e.variable_id)
        if e.variable_id not in VARIABLE_IDS:
            reason = f"variable {e.variable_id} is not in the registry"
        elif wanted is not None and not any(v.name in wanted for v in channels):
            reason = f"variable {e.variable_id} is not among the variables asked for"
        elif config.tables is not None and e.table_id not in config.tables:
            reason = f"table {e.table_id} is not among the tables asked for"
        elif channels[0].static != (e.frequency == "fx"):
            reason = f"{e.variable_id} with frequency {e.frequency}: a static field comes from table fx alone"
        elif e.frequency not in (*STEP_HOURS, "fx"):
            reason = f"frequency {e.frequency} is not packed ({', '.join(STEP_HOURS)} are)"
        else:
            usable.append(e)
            continue
        skipped.append(Skipped(file=e.file, reason=reason))
    return usable, skipped


def with_ingredients(names: Iterable[str]) -> set[str]:
    """Registry names, and those that they can be derived from at the same level."""
    found = set(names)
    for name in tuple(found):
        entry = lookup(name)
        rule = derivation_of(entry.variable_id or "")
        if rule is not None:
            found |= {v.name for i in rule.ingredients for v in channels_of(i) if v.level_hpa == entry.level_hpa}
    return found


def _refuse_variables(entries: list[Entry], config: PackConfig) -> None:
    """Where nothing is left of the variables asked for: the first that no file holds."""
    held = in_registry_order(v.name for e in entries for v in channels_of(e.variable_id))
    for name in config.variables or ():
        variable_id = lookup(name).variable_id
        if variable_id is not None and name not in held:
            raise UserError(f"variables: no source holds {name} (CMIP6 {variable_id}); {nearest_held(name, held)}")


def nearest_held(name: str, held: list[str]) -> str:
    """The end of a message that refuses a variable: those most like it of what the input holds."""
    near = get_close_matches(name, held, n=3, cutoff=0.3) or held[:5]
    return f"the nearest there are {', '.join(near)}" if near else "it holds none that can be packed"


def _newest_versions(entries: list[Entry]) -> tuple[list[Entry], list[Skipped]]:
    """DRS trees may hold several versions of one data set; the newest replaces the others."""
    newest: dict[Entry, str] = {}
    for e in entries:
        data_set = replace(e, file="", version="", identity=())
        newest[data_set] = max(newest.get(data_set, ""), e.version, key=lambda v: int(v[1:] or 0))
    kept, older = [], []
    for e in entries:
        version = newest[replace(e, file="", version="", identity=())]
        if e.version == version:
            kept.append(e)
        else:
            older.append(Skipped(file=e.file, reason=f"version {e.version or '(none)'} is replaced by {version}"))
    return kept, older


def select_names(names: list[str], config: PackConfig) -> list[str]:
    """Those of `names` that the config selects.

    Raises:
        UserError: a pattern that matches none, with the nearest names.
    """
    for key, patterns in (("sources", config.sources), ("exclude_sources", config.exclude_sources)):
        for pattern in patterns or ():
            if not any(fnmatchcase(name, pattern) for name in names):
                near = get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:5]
                raise UserError(f"{key}: no source {pattern!r} in the input; there are {', '.join(near) or 'none'}")
    chosen = [n for n in names if config.sources is None or any(fnmatchcase(n, p) for p in config.sources)]
    return [n for n in chosen if not any(fnmatchcase(n, p) for p in config.exclude_sources or ())]


def _one_frequency(name: str, entries: list[Entry], config: PackConfig) -> str | None:
    frequencies = sorted({e.frequency for e in entries})
    if config.frequency is not None:
        return config.frequency if config.frequency in frequencies else None
    if len(frequencies) > 1:
        raise UserError(
            f"{name}: comes in several frequencies ({', '.join(frequencies)}); choose one: frequency: {frequencies[0]}"
        )
    return frequencies[0]


def _relatives(of: Entry, static: list[Entry]) -> list[Entry]:
    """One file per static variable of the same model: same experiment and member, same experiment, else the first."""
    chosen = []
    for variable_id in sorted({e.variable_id for e in static if e.source_id == of.source_id}):
        candidates = [e for e in static if e.source_id == of.source_id and e.variable_id == variable_id]
        chosen.append(
            min(
                candidates,
                key=lambda e: (e.experiment_id != of.experiment_id, e.variant_label != of.variant_label, e.file),
            )
        )
    return chosen
