"""The time step of input files, measured from time axes and bounds; the header's `frequency` is compared with it.

The step of a mean is the length of its interval, of other values the usual distance of the stamps. A header that agrees
with one of the two is right: months may be left out of monthly means. Else the measured step is used, and said.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from climax_hpc.data_prep.sources.catalog import CatalogEntry
from climax_hpc.data_prep.sources.coordinates import attribute, axis_of, bounds_of
from climax_hpc.data_prep.sources.intervals import is_instantaneous
from climax_hpc.data_prep.sources.read_file import cell_methods_of, times_of
from climax_hpc.fields.calendars import STEP_HOURS, Seconds, decode_times, frequency_of_steps, length_text
from climax_hpc.fields.variables import channels_of

_REGULAR = 0.1  # steps that differ by less are steps of one length, such as seasons


def _none() -> Seconds:
    return np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class MeasuredEntry:
    """A catalogue entry with the time axis of its file, before its frequency is decided."""

    entry: CatalogEntry
    seconds: Seconds = field(default_factory=_none)
    """Time stamps (T,), seconds since 1850; empty without a time axis."""
    intervals: Seconds = field(default_factory=_none)
    """Lengths (T,) of the intervals of means [s]; empty without bounds, and for instants."""


def measure(dataset: Any, entry: CatalogEntry) -> MeasuredEntry:
    """Read the time axis of a variable.

    Raises:
        Unusable, UserError: see `times_of`.
    """
    variable = dataset.variables.get(entry.name or entry.variable_id)
    static = channels_of(entry.variable_id)[0].static
    axis = None if variable is None or static else axis_of(dataset, variable, "time")
    if axis is None:
        return MeasuredEntry(entry)
    cell_methods = cell_methods_of(variable, entry.alias)
    seconds, _ = times_of(dataset, variable, entry.file, cell_methods)
    bounds, units = bounds_of(dataset, axis), attribute(axis, "units")
    if bounds is None or not units or is_instantaneous(cell_methods):
        return MeasuredEntry(entry, seconds)
    edges, _ = decode_times(bounds.ravel(), units, attribute(axis, "calendar") or "standard", entry.file)
    lengths = np.abs(_steps(edges)[::2])
    return MeasuredEntry(entry, seconds, lengths[lengths > 0])


def with_measured_frequency(measured: Sequence[MeasuredEntry]) -> list[CatalogEntry]:
    """The entries with the frequency that the time axes show; files of one step are measured with their data set."""
    parts: dict[CatalogEntry, list[Seconds]] = {}
    for m in measured:
        parts.setdefault(replace(m.entry, file=""), []).append(m.seconds)
    steps = {key: _steps(np.unique(np.concatenate(seconds))) for key, seconds in parts.items()}
    return [
        _decided(m, _steps(m.seconds) if len(m.seconds) > 1 else steps[replace(m.entry, file="")]) for m in measured
    ]


def _steps(seconds: Seconds) -> Seconds:
    return np.asarray(np.diff(seconds), np.int64)


def _decided(measured: MeasuredEntry, steps: Seconds) -> CatalogEntry:
    """The entry with its frequency: that of the header if interval or step agree, else the measured one."""
    entry, header = measured.entry, measured.entry.frequency
    seen = [frequency_of_steps(lengths) for lengths in (measured.intervals, steps) if len(lengths)]
    shown = measured.intervals if len(measured.intervals) else steps
    if not seen or header in seen:
        return entry
    length = length_text(int(np.median(shown)))
    known = [frequency for frequency in seen if frequency]
    irregular = not len(measured.intervals) and np.ptp(steps) > _REGULAR * np.median(steps)
    if not known and irregular and header in STEP_HOURS:
        return entry  # single events, such as days of storms
    return replace(entry, frequency=known[0] if known else "", measured=length)


def notes_on_frequency(entries: Sequence[CatalogEntry]) -> list[str]:
    """One line for each source whose header and time axis disagree: file, what the header says, what was measured."""
    notes: dict[tuple[str, str], list[CatalogEntry]] = {}
    for e in entries:
        if e.frequency_note:
            notes.setdefault((e.source, e.frequency_note), []).append(e)
    return [
        f"{found[0].file}{f' and {len(found) - 1} more' if len(found) > 1 else ''}: {note}: packed as "
        f"{found[0].frequency}"
        for (_, note), found in notes.items()
    ]
