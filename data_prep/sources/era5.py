"""Finds ERA5 fields: WeatherBench 2 zarr stores (`*.zarr`) and NetCDF of the old and new Copernicus data store."""

from dataclasses import replace
from typing import Any

import numpy as np

from climax_hpc.data_prep.sources.catalog import CatalogEntry
from climax_hpc.data_prep.sources.conversions import Alias
from climax_hpc.data_prep.sources.coordinates import Unusable, attribute, axis_of
from climax_hpc.data_prep.sources.find_files import no_files
from climax_hpc.data_prep.sources.input_root import Root, find_inputs, is_store
from climax_hpc.data_prep.sources.intervals import is_instantaneous
from climax_hpc.data_prep.sources.named_fields import named_fields
from climax_hpc.data_prep.sources.open_input import opened
from climax_hpc.data_prep.sources.read_file import times_of
from climax_hpc.data_prep.sources.skipped import SkippedFile
from climax_hpc.fields.calendars import Seconds, frequency_of_steps, length_text, to_dates
from climax_hpc.fields.variables import channels_of

_IDENTITY = (("source_id", "ERA5"), ("institution_id", "ECMWF"), ("layout", "era5"))

_STEP_TYPES = {"avg": "time: mean", "max": "time: maximum", "min": "time: minimum"}
"""First letters of GRIB's step type -> cell methods; `avgua` and `avgad` are monthly means of instants and of sums."""


def discover_era5(root: Root) -> tuple[list[CatalogEntry], list[SkippedFile]]:
    """One entry per known variable of each file or store below `root`, and the variables left out.

    Raises:
        UserError: there is no file; a file cannot be opened, or its time axis is invalid.
    """
    found, skipped = find_inputs(root, (".zarr", ".nc"))
    if not found:
        fix = "give the folder of the ERA5 download"
        raise no_files(root, "neither zarr stores (*.zarr) nor NetCDF (*.nc)", fix, skipped)
    entries: list[CatalogEntry] = []
    times: dict[str, list[Seconds]] = {}
    for file, path in sorted(found, key=lambda named: not is_store(named[1])):
        with opened(path, file) as dataset:
            fields, others = named_fields(dataset, "era5", file, separate=is_store(path))
            skipped += others
            for variable, alias, of_variable in fields:
                entry = _entry(dataset, variable, of_variable, alias)
                try:
                    if entry.frequency != "fx":
                        seconds, _ = times_of(dataset, variable, of_variable, alias.cell_methods)
                        times.setdefault(entry.variable_id, []).append(seconds)
                    entries.append(entry)
                except Unusable as error:
                    skipped.append(entry.skipped(str(error)))
    seconds_of = {v: np.unique(np.concatenate(parts)) for v, parts in times.items()}
    by_hour = [e for e in entries if e.frequency != "fx" and _is_by_hour_of_day(seconds_of[e.variable_id])]
    reason = "its steps are hours of the first day of months: monthly means by hour of day, not a series in time"
    return [
        e if e.frequency == "fx" else _with_frequency(e, np.asarray(np.diff(seconds_of[e.variable_id]), np.int64))
        for e in entries
        if e not in by_hour
    ], skipped + [e.skipped(reason) for e in by_hour]


def _is_by_hour_of_day(seconds: Seconds) -> bool:
    """True for several hours of the first day of each of several months, and no other day."""
    steps = np.diff(seconds)
    if not len(steps) or steps.min() >= 86400 or steps.max() <= 27 * 86400:
        return False
    dates = to_dates(seconds, "standard")
    months = {(date.year, date.month) for date in dates}
    return len(months) > 1 and all(date.day == 1 for date in dates)


def _with_frequency(entry: CatalogEntry, steps: Seconds) -> CatalogEntry:
    """The entry with its frequency; months and years of ERA5 are means, whatever the variable is at an instant."""
    frequency = frequency_of_steps(steps) if len(steps) else None
    alias = entry.alias
    if alias is not None and is_instantaneous(alias.cell_methods) and frequency in ("mon", "yr"):
        alias = replace(alias, cell_methods="time: mean")
    measured = length_text(int(np.median(steps))) if len(steps) and frequency is None else ""
    return replace(entry, frequency=frequency or "", measured=measured, alias=alias)


def _entry(dataset: Any, variable: Any, file: str, alias: Alias) -> CatalogEntry:
    """The entry of a variable; only the frequency of static fields is known yet."""
    if alias.variable_id == "zg" and axis_of(dataset, variable, "level") is None:
        alias = Alias(variable_id="orog", units=alias.units, cell_methods=alias.cell_methods)
    step_type = attribute(variable, "GRIB_stepType")
    method = next((text for prefix, text in _STEP_TYPES.items() if step_type.startswith(prefix)), alias.cell_methods)
    alias = replace(alias, cell_methods=method)
    return CatalogEntry(
        file=file,
        source_id="ERA5",
        experiment_id="reanalysis",
        variant_label="r1",
        table_id="era5",
        variable_id=alias.variable_id,
        frequency="fx" if channels_of(alias.variable_id)[0].static else "",
        identity=_IDENTITY,
        name=variable.name,
        alias=alias,
    )
