"""The catalogue of input files: one entry per variable and file, grouped into sources of one frequency."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from climax_hpc.data_prep.sources.conversions import Alias
from climax_hpc.data_prep.sources.selection import Selection, nearest_held, select_names, with_ingredients
from climax_hpc.data_prep.sources.skipped import Cause, SkippedFile, skip_reasons
from climax_hpc.errors import UserError
from climax_hpc.fields.calendars import STEP_HOURS
from climax_hpc.fields.variables import VARIABLE_IDS, channels_of, in_registry_order, lookup


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
    """`1hr`, `3hr`, `6hr`, `day`, `mon`, `yr`, `fx`, or another value stated in the file."""
    grid_label: str = ""
    version: str = ""
    """DRS version folder (`v20191115`); empty if there is none."""
    identity: tuple[tuple[str, str], ...]
    """Facets that identify the model and the run."""
    name: str = ""
    """Name of the variable in the file; empty if it is `variable_id`."""
    alias: Alias | None = None
    """Metadata of the variable that files of this layout leave out; None for CMIP6."""

    @property
    def source(self) -> str:
        """`<source_id>_<experiment_id>_<variant_label>`."""
        return f"{self.source_id}_{self.experiment_id}_{self.variant_label}"

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
    usable, older = _newest_versions(usable)
    static = [e for e in usable if e.frequency == "fx"]
    dynamic = [e for e in usable if e.frequency != "fx"]
    if not dynamic:
        _refuse_variables(entries, selection)
    names = select_names(sorted({e.source for e in dynamic}), selection)
    skipped += older
    others = [e for e in dynamic if e.source not in names]
    skipped += [e.skipped(f"source {e.source} is not selected", Cause.NOT_SELECTED) for e in others]
    sources = []
    for name in names:
        own = [e for e in dynamic if e.source == name]
        frequency = _one_frequency(name, own, selection)
        kept = [e for e in own if e.frequency == frequency]
        skipped += [
            e.skipped(f"frequency {e.frequency} is not the selected one ({selection.frequency})", Cause.NOT_SELECTED)
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
        elif selection.tables is not None and e.table_id not in selection.tables:
            reason = f"table {e.table_id} is not among the selected tables"
        elif channels[0].static != (e.frequency == "fx"):
            cause = Cause.UNUSABLE
            reason = f"{e.variable_id} with frequency {e.frequency}: static fields are read from table fx only"
        elif e.frequency not in (*STEP_HOURS, "fx"):
            cause = Cause.UNUSABLE
            reason = f"frequency {e.frequency} is not supported (supported: {', '.join(STEP_HOURS)})"
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


def _newest_versions(entries: list[CatalogEntry]) -> tuple[list[CatalogEntry], list[SkippedFile]]:
    """DRS trees may contain several versions of one data set; only the newest is packed."""
    newest: dict[CatalogEntry, str] = {}
    for e in entries:
        data_set = replace(e, file="", version="", identity=())
        newest[data_set] = max(newest.get(data_set, ""), e.version, key=lambda v: int(v[1:] or 0))
    kept, older = [], []
    for e in entries:
        version = newest[replace(e, file="", version="", identity=())]
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
        raise UserError(
            f"{name}: has several frequencies ({', '.join(frequencies)}); choose one, for example "
            f"frequency: {frequencies[0]}"
        )
    return frequencies[0]


def _static_entries(of: CatalogEntry, static: list[CatalogEntry]) -> list[CatalogEntry]:
    """One file per static variable of the model, preferably of the same experiment and member, else the first."""
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
