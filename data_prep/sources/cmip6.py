"""Finds files of CMIP5, CMIP6, CMIP6Plus and CMIP7: NetCDF whose facets are in the header or in the file name."""

import re
from pathlib import Path
from typing import Any

from climax_hpc.data_prep.sources.branding import (
    cell_methods_of_branding,
    methods_over_time,
    refuse_branding,
    refuse_other_method,
)
from climax_hpc.data_prep.sources.catalog import RUN_FACETS, CatalogEntry
from climax_hpc.data_prep.sources.conversions import Alias
from climax_hpc.data_prep.sources.coordinates import Unusable, attribute
from climax_hpc.data_prep.sources.facets import FACETS, facets_of, refuse_region
from climax_hpc.data_prep.sources.find_files import no_files
from climax_hpc.data_prep.sources.input_root import Root, find_inputs, is_store
from climax_hpc.data_prep.sources.open_input import opened
from climax_hpc.data_prep.sources.skipped import Cause, SkippedFile
from climax_hpc.data_prep.sources.time_step import MeasuredEntry, measure, with_measured_frequency
from climax_hpc.fields.variables import VARIABLE_IDS

_TABLE_FREQUENCY = re.compile(r"(1hr|3hr|6hr|day|mon|yr|fx)", re.IGNORECASE)
_VERSION = re.compile(r"v\d+|\d{8}")  # v20250622; 20251104 in CMOR's paths for CMIP7
_IDENTITY = (
    "mip_era", "activity_id", "institution_id", "source_id", "experiment_id", "sub_experiment_id", "variant_label",
)  # fmt: skip
_READ = {*FACETS, *_IDENTITY, *RUN_FACETS}
_LONGEST_TEXT = 10_000  # characters of an attribute; a file may hold gigabytes
_CLIMATOLOGY = re.compile(r"\d*(hr|day|mon|yr)C\w*|\w*clim\w*", re.IGNORECASE)


def discover_cmip6(root: Root) -> tuple[list[CatalogEntry], list[SkippedFile]]:
    """All CMIP files and stores below `root`, in order of their paths, and the files left out.

    Raises:
        UserError: there is no file; a file cannot be opened.
    """
    found, skipped = find_inputs(root, (".nc", ".zarr"))
    if not found:
        fix = "give the folder of the CMIP6 download, or another layout"
        raise no_files(root, "neither NetCDF files (*.nc) nor zarr stores", fix, skipped)
    measured = []
    for file, path in found:
        name = Path(file).name
        try:
            with opened(path, file) as dataset:
                entry = _read_entry(dataset, name, file, is_store(path))
                measured.append(entry)
                skipped += _other_variables(dataset, entry.entry)
        except Unusable as error:
            variable_id = name.split("_")[0]
            skipped.append(SkippedFile(file=file, reason=str(error), variable_id=variable_id))
    return with_measured_frequency(measured), skipped


def _read_entry(dataset: Any, name: str, file: str, store: bool) -> MeasuredEntry:
    """The entry of an open file, and its time axis if the registry has the variable.

    Raises:
        Unusable: its header and name lack facets, or name two runs; its values are neither means nor instants.
        UserError: its time axis is invalid.
    """
    present = _READ.intersection(dataset.ncattrs())
    attributes = {key: str(dataset.getncattr(key))[:_LONGEST_TEXT].strip() for key in present}
    facets = facets_of(attributes, name)
    stated = facets["frequency"] or _frequency_of_table(facets["table_id"])
    if known := facets["variable_id"] in VARIABLE_IDS:
        refuse_region(facets["region"])
        refuse_branding(facets["branding_suffix"], facets["variable_id"])
        for key, text in (("frequency", stated), ("table", facets["table_id"])):
            if _CLIMATOLOGY.fullmatch(text):
                raise Unusable(f"its {key} is {text}: a climatology, not a series in time; leave it out")
    folders = file.split("/") if store else file.split("/")[:-1]
    versions = [part for part in folders if _VERSION.fullmatch(part)]
    entry = CatalogEntry(
        file=file,
        frequency=stated.removesuffix("Pt"),
        header_frequency=stated,
        grid_label=facets["grid_label"],
        branding=facets["branding_suffix"],
        version=versions[-1] if versions else "",
        identity=tuple((key, (attributes | facets).get(key, "")) for key in _IDENTITY),
        run=tuple(attributes.get(key, "").strip("[]").removesuffix(".0") for key in RUN_FACETS),  # numbers of any type
        source_id=facets["source_id"],
        experiment_id=facets["experiment_id"],
        sub_experiment_id=facets["sub_experiment_id"],
        variant_label=facets["variant_label"],
        table_id=facets["table_id"] or facets["branding_suffix"],
        variable_id=facets["variable_id"],
        alias=_alias(dataset, facets["variable_id"], facets["branding_suffix"]) if known else None,
    )
    return measure(dataset, entry) if known else MeasuredEntry(entry)


def _alias(dataset: Any, variable_id: str, branding: str) -> Alias | None:
    """The cell methods that the branding of a variable says, if the variable itself states none over time.

    Raises:
        Unusable: both say something, and differ.
    """
    variable = dataset.variables.get(variable_id)
    if variable is None or not cell_methods_of_branding(branding):
        return None
    stated = attribute(variable, "cell_methods")
    refuse_other_method(branding, stated, variable_id)
    methods = methods_over_time(stated, branding)
    return None if methods == stated else Alias(variable_id=variable_id, cell_methods=methods)


def _other_variables(dataset: Any, entry: CatalogEntry) -> list[SkippedFile]:
    """Registry variables beside the one of the file, such as the surface pressure of model levels."""
    reason = f"{{}} beside {entry.variable_id}: only one variable of a file is read; split it, `cdo splitname`"
    return [
        SkippedFile(file=entry.file, reason=reason.format(name), variable_id=name, cause=Cause.NOT_SELECTED)
        for name, variable in dataset.variables.items()
        if name in VARIABLE_IDS and entry.variable_id in VARIABLE_IDS and name != entry.variable_id
        if variable.ndim > 1
    ]


def _frequency_of_table(table_id: str) -> str:
    found = _TABLE_FREQUENCY.search(table_id)
    return found.group(1).lower() if found else ""
