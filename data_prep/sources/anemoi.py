"""Finds fields in stores of ECMWF's anemoi-datasets (`*.zarr`), on regular latitude-longitude grids."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from climax_hpc.data_prep.sources.array_dataset import ArrayDataset
from climax_hpc.data_prep.sources.catalog import CatalogEntry
from climax_hpc.data_prep.sources.conversions import Alias
from climax_hpc.data_prep.sources.coordinates import Unusable
from climax_hpc.data_prep.sources.find_files import no_files
from climax_hpc.data_prep.sources.input_root import Root, find_inputs
from climax_hpc.data_prep.sources.named_fields import named_fields
from climax_hpc.data_prep.sources.open_anemoi import accumulated_hours, fields_of, is_anemoi, metadata_of
from climax_hpc.data_prep.sources.open_input import opened
from climax_hpc.data_prep.sources.skipped import Cause, SkippedFile
from climax_hpc.data_prep.sources.time_step import MeasuredEntry, measure, with_measured_frequency
from climax_hpc.fields.variables import channels_of

_COMPUTED = (
    "is computed by anemoi from date and position, and is no state of the atmosphere; models compute their own "
    "(`toa_insolation` and others in `model.variables`)"
)


def discover_anemoi(root: Root) -> tuple[list[CatalogEntry], list[SkippedFile]]:
    """One entry per known variable of each store below `root`, and the variables and stores left out.

    Each store is a source, `<name of the store>_anemoi_r1`.

    Raises:
        UserError: there is no store; a store cannot be opened, or its time axis is invalid.
    """
    found, skipped = find_inputs(root, (".zarr",))
    if not found:
        raise no_files(root, "no zarr store (*.zarr)", "give the folder of stores of anemoi-datasets", skipped)
    measured: list[MeasuredEntry] = []
    for file, path in found:
        with opened(path, file) as dataset:
            if reason := _why_unusable(dataset):
                skipped.append(SkippedFile(file=file, reason=reason))
                continue
            fields, others = named_fields(dataset, "anemoi", f"{file}/data")
            skipped += [_with_reason(dataset, entry) for entry in others]
            for variable, alias, of_variable in fields:
                entry = _entry(dataset, variable, of_variable, alias, Path(file).stem)
                try:
                    measured.append(measure(dataset, entry))
                except Unusable as error:
                    skipped.append(entry.skipped(str(error)))
    return with_measured_frequency(measured), skipped


def _why_unusable(dataset: Any) -> str:
    """Why a store offers no fields; empty if it does."""
    if "latitude" in dataset.variables and "variables" in dataset.ncattrs():
        return ""
    if not is_anemoi(dataset):
        return "is no store of anemoi-datasets: it lacks data, dates, latitudes, longitudes or the attribute variables"
    try:
        fields_of(dataset)
    except Unusable as error:
        return str(error)
    return ""


def _with_reason(dataset: ArrayDataset, skipped: SkippedFile) -> SkippedFile:
    """The record of a variable that is not packed, which says so of the forcings that anemoi computes."""
    if not metadata_of(dataset, skipped.variable_id).get("computed_forcing"):
        return skipped
    return replace(skipped, reason=f"{skipped.variable_id} {_COMPUTED}", cause=Cause.NEVER_PACKED)


def _entry(dataset: ArrayDataset, variable: Any, file: str, alias: Alias, store: str) -> CatalogEntry:
    """The entry of a variable; the store may state the period of its sums."""
    hours = accumulated_hours(dataset, variable.name) if alias.accumulated_hours else None
    if hours is not None:
        alias = replace(alias, accumulated_hours=hours, hourly=False)
    return CatalogEntry(
        file=file,
        source_id=store,
        experiment_id="anemoi",
        variant_label="r1",
        table_id="anemoi",
        variable_id=alias.variable_id,
        frequency="fx" if channels_of(alias.variable_id)[0].static else "",
        identity=(("source_id", store), ("layout", "anemoi")),
        name=variable.name,
        alias=alias,
    )
