"""Plans a pack: aligns the variables of each source in time, splits at gaps, cuts the segments into work units."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from climax_hpc.config.network import network_of
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.packing.plan import Index, PackPlan, Series, SourcePlan, WorkUnit
from climax_hpc.data_prep.packing.target_grid import target_of
from climax_hpc.data_prep.packing.time_alignment import (
    common_steps,
    in_time_order,
    one_calendar,
    refuse_phases,
    refuse_two_kinds,
    refuse_unknown_intervals,
)
from climax_hpc.data_prep.sources.catalog import CatalogEntry, RawSource, group
from climax_hpc.data_prep.sources.conversions import DERIVATIONS, Alias, Derivation
from climax_hpc.data_prep.sources.coordinates import Unusable
from climax_hpc.data_prep.sources.input_root import Root, base_of
from climax_hpc.data_prep.sources.layouts import discover
from climax_hpc.data_prep.sources.read_file import InputFile, inspect_variable, yearly
from climax_hpc.data_prep.sources.selection import nearest_held
from climax_hpc.data_prep.sources.skipped import Cause, SkippedFile, in_order, skip_reasons
from climax_hpc.data_prep.sources.time_step import notes_on_frequency
from climax_hpc.data_prep.sources.units import same_units
from climax_hpc.data_prep.stores.local_kinds import is_store_input
from climax_hpc.errors import UserError
from climax_hpc.fields.calendars import STEP_HOURS, stamp, step_index
from climax_hpc.fields.variables import channels_of, in_registry_order, lookup
from climax_hpc.utils.names import shown


def make_plan(config: PackConfig) -> PackPlan:
    """Inspect every file or store of the input and plan the work units.

    Raises:
        UserError: see `discover`, `group`, `inspect_variable`; variables or levels that no source has; no common time.
    """
    root = open_root(config)
    entries, unread = discover(config.layout, root)
    root = base_of(root)
    output = Path(config.output).resolve()  # may lie below the input, and holds shards if an interrupted pack resumes
    if isinstance(root, Path):
        unread = [s for s in unread if output not in (root.resolve() / s.file).parents]
    _refuse_unknown_names(entries, config)
    groups, skipped = group(entries, config.selection, unread)
    skipped = unread + skipped
    sources: list[SourcePlan] = []
    seen: list[InputFile] = []
    for source in groups:
        plan = _plan_source(root, source, config, skipped, seen)
        if plan is not None:
            sources.append(plan)
    _refuse_absent(config, sources, seen, skipped)
    work_units = [unit for i, plan in enumerate(sources) for unit in _cut(i, plan, config.steps_per_shard)]
    return PackPlan(
        root=root,
        sources=sources,
        work_units=work_units,
        skipped=in_order(skipped),
        notes=notes_on_frequency([e for source in groups for e in source.entries]),
    )


def open_root(config: PackConfig) -> Root:
    """The folder of the input, or its stores.

    Raises:
        UserError: no such folder; see `find_stores`.
    """
    if not is_store_input(config.input):
        return config.input_folder
    from climax_hpc.data_prep.stores.find_stores import find_stores  # imports zarr

    named = [config.input] if isinstance(config.input, str) else list(config.input)
    return find_stores(named, network_of(config))


def _refuse_unknown_names(entries: list[CatalogEntry], config: PackConfig) -> None:
    """Refuse units and accumulation periods of variables that the input does not contain, most likely typos."""
    known = sorted({name for e in entries for name in (e.variable_id, e.name) if name})
    for key in ("units", "accumulated_hours"):
        for name in getattr(config, key) or {}:
            if name not in known:
                raise UserError(f"{key}: the input contains no variable {name!r}; {nearest_held(name, known)}")


def _plan_source(
    root: Root, source: RawSource, config: PackConfig, skipped: list[SkippedFile], seen: list[InputFile]
) -> SourcePlan | None:
    """Plan one source; None if nothing of it is left. Appends to `skipped` and to the files `seen`."""
    files = _inspect_all(root, source.entries, config, skipped)
    seen += [f for _, f in files]
    by_variable = {v: [f for e, f in files if e.variable_id == v] for v in sorted({e.variable_id for e, _ in files})}
    own = {v: chosen for v, fs in by_variable.items() if (chosen := _channels(v, fs, config))}
    derived = _derived(by_variable, own, config)
    needed = {*own, *(i for rule, _ in derived for i in rule.ingredients)}
    skipped += _without_levels(files, needed)
    if not needed:
        return None
    refuse_two_kinds(source.name, [(e, f) for e, f in files if e.variable_id in needed], config)
    by_variable = {v: in_time_order(fs, source.frequency) for v, fs in by_variable.items() if v in needed}
    calendar = one_calendar(source.name, [f for fs in by_variable.values() for f in fs])
    step_hours = STEP_HOURS[source.frequency]
    refuse_phases(source.name, by_variable, step_hours, config)
    refuse_unknown_intervals(source.name, by_variable, source.frequency)
    common, total = common_steps(source.name, by_variable, source.frequency)
    series = [_series(v, by_variable[v], common, source.frequency, chosen) for v, chosen in own.items()]
    for rule, chosen in derived:
        parts = [_series(i, by_variable[i], common, source.frequency, chosen) for i in rule.ingredients]
        lead = replace(parts[0], variable_id=rule.variable_id)
        series.append(replace(lead, derivation=rule, ingredients=parts))
    channels = in_registry_order(c for s in series for c in s.channels)
    lead = next(s for s in series if channels[0] in s.channels)
    seconds = np.array(
        [lead.files[f].seconds[i] for f, i in zip(lead.file_of_step, lead.step_in_file, strict=True)], np.int64
    )
    static = [f for _, f in _inspect_all(root, source.static, config, skipped)]
    return SourcePlan(
        name=source.name,
        identity={k: shown(v, 200) for k, v in source.entries[0].identity if v},
        frequency=source.frequency,
        step_hours=step_hours,
        calendar=calendar,
        seconds=seconds,
        segment_starts=[0, *(int(i) + 1 for i in np.flatnonzero(np.diff(common) != 1))],
        dropped_steps=total - len(common),
        series=series,
        static=static,
        channels=channels,
        static_channels=_static_channels(static, config),
        target=target_of(config, source.name, [f.orientation.grid for s in series for f in s.all_files()]),
    )


def _with_accumulation(entry: CatalogEntry, alias: Alias | None, config: PackConfig) -> Alias | None:
    """The alias with the accumulation period that the config states.

    Raises:
        UserError: the period of a sum is neither stated nor known from the time step.
    """
    name = entry.name or entry.variable_id
    hours = (config.accumulated_hours or {}).get(name)
    if hours is not None:
        return replace(alias or Alias(variable_id=entry.variable_id), accumulated_hours=hours)
    if alias is not None and alias.hourly and entry.frequency != "1hr":
        raise UserError(
            f"{entry.file}: {name} is a sum over a period that the file does not state, and its time step is "
            f"{entry.frequency}, not 1 h: set accumulated_hours: {{{name}: HOURS}} (1 for steps taken from hourly "
            "data, 3 for the ensemble, 24 for daily statistics and monthly means), or leave it out with `variables`"
        )
    return alias


def _inspect_all(
    root: Root, entries: list[CatalogEntry], config: PackConfig, skipped: list[SkippedFile]
) -> list[tuple[CatalogEntry, InputFile]]:
    found = []
    for entry in entries:
        alias, stated = entry.alias, config.units or {}
        by_id = "" if alias is not None and alias.units else stated.get(entry.variable_id, "")
        if units := stated.get(entry.name, by_id):
            alias = replace(alias or Alias(variable_id=entry.variable_id), units=units)
        alias = _with_accumulation(entry, alias, config)
        try:
            regional = config.region is not None
            file = inspect_variable(
                root, entry.file, entry.variable_id, name=entry.name, alias=alias, regional=regional
            )
            if units:
                _refuse_other_units(units, file)
            found.append((entry, yearly(file) if entry.frequency == "yr" else file))
        except Unusable as error:
            skipped.append(entry.skipped(str(error)))
    return found


def _refuse_other_units(given: str, file: InputFile) -> None:
    """Refuse units that are given for a variable whose file states others, which hold.

    Raises:
        UserError: names the file and both units.
    """
    if file.units and not same_units(given, file.units):
        raise UserError(
            f"units: {given!r} is given for {file.name}, but {file.file} states {file.units!r}: leave it out, or "
            "correct the `units` of the file; the key is for files that state none"
        )


def _channels(variable_id: str, files: list[InputFile], config: PackConfig) -> list[tuple[int | None, str]]:
    """(level, registry name) of the channels of a variable that all its files have and the config selects."""
    return [
        (v.level_hpa, v.name)
        for v in channels_of(variable_id)
        if (v.level_hpa is None or all(v.level_hpa in f.levels for f in files))
        and (config.variables is None or v.name in config.variables)
    ]


def _without_levels(files: list[tuple[CatalogEntry, InputFile]], needed: set[str]) -> Iterator[SkippedFile]:
    """Files of which no level is packed, and files that keep a level from being packed because they lack it."""
    for entry, file in files:
        held = {level for e, f in files if e.variable_id == entry.variable_id for level in f.levels}
        own = ", ".join(f"{level:g}" for level in file.file_levels_hpa)
        lacking = sorted(held - set(file.levels), reverse=True)
        if lacking:
            names = ", ".join(map(str, lacking))
            yield entry.skipped(f"has levels {own} hPa, not {names} hPa, which are left out of the whole source")
        elif not held and channels_of(entry.variable_id)[0].level_hpa is not None:
            yield entry.skipped(f"has levels {own} hPa, none of which is in the registry", Cause.NEVER_PACKED)
        elif entry.variable_id not in needed:
            yield entry.skipped("none of its levels is selected", Cause.NOT_SELECTED)


def _derived(
    by_variable: dict[str, list[InputFile]], own: dict[str, list[tuple[int | None, str]]], config: PackConfig
) -> list[tuple[Derivation, list[tuple[int | None, str]]]]:
    """Requested channels that no file contains but that can be computed from variables at the same levels."""
    held = {name for channels in own.values() for _, name in channels}
    found = []
    for rule in DERIVATIONS:
        parts = [by_variable.get(i, []) for i in rule.ingredients]
        files = [f for part in parts for f in part]
        if not all(parts) or not all(files[0].orientation.grid.same_as(f.orientation.grid) for f in files):
            continue
        chosen: list[tuple[int | None, str]] = [
            (v.level_hpa, v.name)
            for v in channels_of(rule.variable_id)
            if v.name in (config.variables or ()) and v.name not in held and all(v.level_hpa in f.levels for f in files)
        ]
        if chosen:
            found.append((rule, chosen))
    return found


def _series(
    variable_id: str, files: list[InputFile], common: Index, frequency: str, chosen: list[tuple[int | None, str]]
) -> Series:
    steps = [step_index(f.seconds, f.calendar, frequency) for f in files]
    file_of = np.repeat(np.arange(len(files)), [len(s) for s in steps])
    in_file = np.concatenate([np.arange(len(s)) for s in steps])
    at = np.searchsorted(np.concatenate(steps), common)
    return Series(
        variable_id=variable_id,
        files=files,
        levels=[level for level, _ in chosen],
        channels=[name for _, name in chosen],
        file_of_step=file_of[at],
        step_in_file=in_file[at],
    )


def _static_channels(static: list[InputFile], config: PackConfig) -> list[str]:
    """Registry names of the static fields, and the latitude, which every grid has."""
    names = ["latitude", *(v.name for f in static for v in channels_of(f.variable_id))]
    return in_registry_order(n for n in names if config.variables is None or n in config.variables)


def _refuse_absent(
    config: PackConfig, sources: list[SourcePlan], seen: list[InputFile], skipped: list[SkippedFile]
) -> None:
    """Refuse a requested variable that no source has; sources may differ in their variables."""
    held = in_registry_order({c for s in sources for c in (*s.channels, *s.static_channels)})
    for name in config.variables or ():
        if name in held:
            continue
        entry = lookup(name)
        for f in seen:
            _refuse_absent_level(name, f)
        reasons = skip_reasons([s for s in skipped if s.variable_id and s.variable_id == entry.variable_id], 1)
        why = f" ({reasons or f'CMIP6 {entry.variable_id}'})"
        raise UserError(f"variables: no source contains {name}{why}; {nearest_held(name, held)}")
    if not sources:
        reason = skip_reasons(skipped, 1) or "no file of a known variable"
        raise UserError(f"input: nothing to pack ({reason}); choose another input, or regrid it first")


def _refuse_absent_level(name: str, file: InputFile) -> None:
    entry = lookup(name)
    if file.variable_id == entry.variable_id and entry.level_hpa is not None and entry.level_hpa not in file.levels:
        levels = ", ".join(f"{level:g}" for level in file.file_levels_hpa)
        raise UserError(
            f"variables: {name}: {file.file} has no level {entry.level_hpa} hPa, only {levels} hPa; "
            "request one of these, or leave it out"
        )


def _cut(number: int, plan: SourcePlan, steps_per_shard: int) -> list[WorkUnit]:
    work_units = []
    ends = [*plan.segment_starts[1:], len(plan.seconds)]
    for segment, (first, end) in enumerate(zip(plan.segment_starts, ends, strict=True)):
        for start in range(first, end, steps_per_shard):
            stop = min(start + steps_per_shard, end)
            span = f"{stamp(plan.seconds[start], plan.calendar)}_{stamp(plan.seconds[stop - 1], plan.calendar)}"
            file = f"{plan.name}/{plan.name}_{span}.h5"
            work_units.append(WorkUnit(source=number, start=start, stop=stop, segment=segment, file=file))
    return work_units
