"""The catalogue of input files: one entry per variable and file, grouped into sources of one frequency."""

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

from climax_hpc.data_prep.sources.conversions import Alias
from climax_hpc.data_prep.sources.facets import distance_of_runs
from climax_hpc.data_prep.sources.selection import Selection, nearest_held, select_names, with_ingredients
from climax_hpc.data_prep.sources.skipped import Cause, SkippedFile, skip_reasons
from climax_hpc.errors import UserError
from climax_hpc.fields.calendars import STEP_HOURS
from climax_hpc.fields.variables import VARIABLE_IDS, channels_of, in_registry_order, lookup
from climax_hpc.utils.names import why_no_name

RUN_FACETS = (
    "mip_era", "institution_id", "domain_id", "driving_source_id", "driving_experiment_id", "driving_variant_label",
    "version_realization", "member_id", "realization_index", "initialization_index", "physics_index", "forcing_index",
)  # fmt: skip
"""Facets of a run that are part of the name of its source only where runs differ in them."""
IDENTITY = ("source_id", "experiment_id", "sub_experiment_id", "variant_label", *RUN_FACETS)
"""Global attributes that tell runs apart."""
_UNSAFE = re.compile(r"[^A-Za-z0-9.-]+")


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """One variable of one file, with its CMIP6 facets."""

    file: str
    """Path relative to the input folder, with slashes."""
    source_id: str
    experiment_id: str
    variant_label: str
    table_id: str
    variable_id: str
    frequency: str
    """`1hr`, `3hr`, `6hr`, `12hr`, `day`, `mon`, `yr`, `fx`, or another value; empty where unknown."""
    header_frequency: str = ""
    """Frequency that the header or the table states, if the time axis shows another one."""
    measured: str = ""
    """Length of the time steps, in words, if the time axis shows another frequency than the header."""
    grid_label: str = ""
    branding: str = ""
    """CMIP7 branding suffix, such as `tavg-h2m-hxy-u`; it tells several data sets of one variable apart."""
    sub_experiment_id: str = ""
    """Start year of a run of an experiment, such as `s1960` of decadal predictions; empty if there is none."""
    version: str = ""
    """DRS version folder (`v20191115`); empty if there is none."""
    identity: tuple[tuple[str, str], ...]
    """Facets that identify the model and the run, for the manifest."""
    run: tuple[str, ...] = ("",) * len(RUN_FACETS)
    """Values of `RUN_FACETS`; empty where the header does not state them."""
    name: str = ""
    """Name of the variable in the file; empty if it is `variable_id`."""
    alias: Alias | None = None
    """Metadata of the variable that files of this layout leave out; None for CMIP6."""
    distinguished: str = ""
    """Further facets in the name of the source, where runs of the same name differ in them."""

    @property
    def source(self) -> str:
        """`<source_id>_<experiment_id>_<member>`; the member is `<variant_label>`, with the start year before it."""
        member = "-".join(part for part in (self.sub_experiment_id, self.variant_label) if part)
        return "_".join((self.source_id, self.experiment_id, member)) + self.distinguished

    @property
    def data_set(self) -> str:
        """`<table_id>/<grid_label>`, with the branding of CMIP7: one series has only one of them."""
        return "/".join(dict.fromkeys(part for part in (self.table_id, self.branding, self.grid_label) if part))

    @property
    def frequency_note(self) -> str:
        """What header and time axis say, where they disagree; else empty."""
        if not (self.measured and self.header_frequency):
            return ""
        return f"the header says frequency {self.header_frequency}, but the time steps are {self.measured}"

    def skipped(self, reason: str, cause: Cause = Cause.UNUSABLE) -> SkippedFile:
        """The record that this entry is not packed; names the variable where the file may hold others."""
        named = self.name and not self.file.endswith(f"/{self.name}")
        text = f"{self.name}: {reason}" if named else reason
        return SkippedFile(file=self.file, reason=text, variable_id=self.variable_id, cause=cause)


@dataclass(kw_only=True)
class RawSource:
    """The files of one model run at one frequency."""

    name: str
    frequency: str
    entries: list[CatalogEntry] = field(default_factory=list)
    static: list[CatalogEntry] = field(default_factory=list)
    """Static fields: per variable the file of the most similar run."""


def group(
    entries: list[CatalogEntry], selection: Selection, unread: Sequence[SkippedFile] = ()
) -> tuple[list[RawSource], list[SkippedFile]]:
    """Sources in order of their names, and the files left out with the reason.

    `unread`: files that discovery left out, for the message if nothing remains.

    Raises:
        UserError: a requested variable is in no file; nothing is left; unknown source; several frequencies in a source.
    """
    usable, skipped = _usable(entries, selection)
    usable, unnamed = _with_safe_names(_with_full_names(usable))
    usable, older = _newest_versions(usable)
    static = [e for e in usable if e.frequency == "fx"]
    dynamic = [e for e in usable if e.frequency != "fx"]
    if not dynamic:
        _refuse_variables(entries, selection)
    names = select_names(sorted({e.source for e in dynamic}), selection)
    skipped += unnamed + older
    others = [e for e in dynamic if e.source not in names]
    skipped += [e.skipped(f"source {e.source} is not selected", Cause.NOT_SELECTED) for e in others]
    sources = []
    for name in names:
        own = [e for e in dynamic if e.source == name]
        frequency = _one_frequency(name, own, selection)
        kept = [e for e in own if e.frequency == frequency]
        another = f"is not the selected one ({selection.frequency})"
        skipped += [
            e.skipped(f"frequency {e.frequency}{_noted(e)} {another}", Cause.NOT_SELECTED)
            for e in own
            if e.frequency != frequency
        ]
        if frequency is not None:
            sources.append(
                RawSource(name=name, frequency=frequency, entries=kept, static=_static_entries(kept[0], static))
            )
    used = {e.file + e.name for source in sources for e in source.static}
    skipped += [
        e.skipped("a static field of another run, or of a model that is not packed", Cause.NOT_SELECTED)
        for e in static
        if e.file + e.name not in used
    ]
    if not sources:
        reasons = skip_reasons([*unread, *skipped], 3) or "no file contains fields in time"
        raise UserError(f"input: nothing to pack ({reasons}); choose another input, frequency or variables")
    return sources, skipped


def _usable(entries: list[CatalogEntry], selection: Selection) -> tuple[list[CatalogEntry], list[SkippedFile]]:
    wanted = None if selection.variables is None else with_ingredients(selection.variables)
    usable, skipped = [], []
    for e in entries:
        channels = channels_of(e.variable_id)
        cause = Cause.NOT_SELECTED
        if e.variable_id not in VARIABLE_IDS:
            cause = Cause.NEVER_PACKED
            reason = f"variable {e.variable_id} is not in the registry"
        elif wanted is not None and not any(v.name in wanted for v in channels):
            reason = f"variable {e.variable_id} is not among the selected variables"
        elif not selection.reads(e.table_id, e.branding):
            what = "branding_suffix" if e.table_id == e.branding else "table"
            reason = f"{what} {e.table_id} is not among the selected tables"
        elif channels[0].static != (e.frequency == "fx"):
            cause = Cause.UNUSABLE
            reason = f"{e.variable_id} with frequency {e.frequency}: static fields are read from table fx only"
        elif e.frequency not in (*STEP_HOURS, "fx"):
            cause = Cause.UNUSABLE
            seen = f"time steps of {e.measured}" if e.measured else "one time step, whose length the file does not show"
            stated = e.header_frequency or e.frequency or "unknown"
            reason = f"frequency {stated}, {seen}: not supported (supported: {', '.join(STEP_HOURS)})"
        else:
            usable.append(e)
            continue
        skipped.append(e.skipped(reason, cause))
    return usable, skipped


def _refuse_variables(entries: list[CatalogEntry], selection: Selection) -> None:
    """Refuse the first requested variable that no file contains."""
    held = in_registry_order(v.name for e in entries for v in channels_of(e.variable_id))
    for name in selection.variables or ():
        variable_id = lookup(name).variable_id
        if variable_id is not None and name not in held:
            raise UserError(f"variables: no source contains {name} (CMIP6 {variable_id}); {nearest_held(name, held)}")


def _with_full_names(entries: list[CatalogEntry]) -> list[CatalogEntry]:
    """The entries with the facets that tell runs of one name apart, and data sets of one variable within a run."""
    for place in range(len(RUN_FACETS)):
        values = [e.run[place] for e in entries]
        entries = _distinguished(entries, values, [()] * len(entries))
    data_sets = [(e.variable_id, e.table_id, e.branding, e.frequency) for e in entries]
    return _distinguished(entries, [e.grid_label for e in entries], data_sets)


def _with_safe_names(entries: list[CatalogEntry]) -> tuple[list[CatalogEntry], list[SkippedFile]]:
    """The entries whose source can be the name of a folder, and the others: a header may hold any text."""
    named, skipped = [], []
    for e in entries:
        if reason := why_no_name(e.source):
            skipped.append(e.skipped(f"the name of its source: {reason}; correct its facets"))
        else:
            named.append(e)
    return named, skipped


def _distinguished(entries: list[CatalogEntry], values: list[str], groups: Sequence[Hashable]) -> list[CatalogEntry]:
    """A facet's value added to the names of the sources that have several values of it in one of the groups."""
    found: dict[tuple[str, Hashable], set[str]] = {}
    for e, value, group in zip(entries, values, groups, strict=True):
        if e.frequency != "fx" and value:
            found.setdefault((e.source, group), set()).add(value)
    several = {source for (source, _), of_group in found.items() if len(of_group) > 1}
    return [
        replace(e, distinguished=f"{e.distinguished}_{_UNSAFE.sub('-', v)}") if v and e.source in several else e
        for e, v in zip(entries, values, strict=True)
    ]


def _newest_versions(entries: list[CatalogEntry]) -> tuple[list[CatalogEntry], list[SkippedFile]]:
    """DRS trees may contain several versions of one data set; only the newest is packed."""

    def data_set(e: CatalogEntry) -> CatalogEntry:
        return replace(e, file="", version="", identity=(), run=(), header_frequency="", measured="")

    newest: dict[CatalogEntry, str] = {}
    for e in entries:
        newest[data_set(e)] = max(newest.get(data_set(e), ""), e.version, key=lambda v: int(v.removeprefix("v") or 0))
    kept, older = [], []
    for e in entries:
        version = newest[data_set(e)]
        if e.version == version:
            kept.append(e)
        else:
            older.append(e.skipped(f"version {e.version or '(none)'} is replaced by {version}", Cause.NOT_SELECTED))
    return kept, older


def _one_frequency(name: str, entries: list[CatalogEntry], selection: Selection) -> str | None:
    frequencies = sorted({e.frequency for e in entries})
    if selection.frequency is not None:
        return selection.frequency if selection.frequency in frequencies else None
    if len(frequencies) > 1:
        noted = next((f"; {e.file}: {e.frequency_note}" for e in entries if e.frequency_note), "")
        raise UserError(
            f"{name}: has several frequencies ({', '.join(frequencies)}{noted}); choose one, for example "
            f"frequency: {frequencies[0]}"
        )
    return frequencies[0]


def _noted(entry: CatalogEntry) -> str:
    return f" ({entry.frequency_note})" if entry.frequency_note else ""


def _static_entries(of: CatalogEntry, static: list[CatalogEntry]) -> list[CatalogEntry]:
    """One file per static variable of the model, preferably of the same experiment and member, else the first."""

    def distance(e: CatalogEntry) -> tuple[tuple[bool, ...], str]:
        ours, theirs = ((x.experiment_id, x.variant_label, x.grid_label) for x in (e, of))
        return distance_of_runs(ours, theirs), e.file

    own = [e for e in static if e.source_id == of.source_id]
    return [
        min((e for e in own if e.variable_id == variable_id), key=distance)
        for variable_id in sorted({e.variable_id for e in own})
    ]
