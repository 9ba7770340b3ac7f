"""Finds files of CMIP6 and CMIP7: NetCDF whose facets are in the header or in the file name."""

import re
from pathlib import Path
from typing import Any

from climax_hpc.data_prep.sources.catalog import RUN_FACETS, CatalogEntry
from climax_hpc.data_prep.sources.coordinates import Unusable
from climax_hpc.data_prep.sources.find_files import find_files, no_files
from climax_hpc.data_prep.sources.intervals import BRANDING_LABELS, branding_of, refuse_statistics
from climax_hpc.data_prep.sources.open_input import opened
from climax_hpc.data_prep.sources.skipped import Cause, SkippedFile
from climax_hpc.data_prep.sources.time_step import MeasuredEntry, measure, with_measured_frequency
from climax_hpc.fields.variables import VARIABLE_IDS

_TABLE_FREQUENCY = re.compile(r"(1hr|3hr|6hr|day|mon|yr|fx)", re.IGNORECASE)
_RUN = r"(?P<source_id>[^_]+)_(?P<experiment_id>[^_]+)_(?:(?P<sub_experiment_id>s\d+)-)?(?P<variant_label>[^_.]+)"
_DATES = r"\d{4,14}(-\d{4,14})?(-\w+)?(_.*)?\.nc"
_FILE_NAMES = (
    re.compile(  # CMIP7
        r"(?P<variable_id>[A-Za-z0-9]+)_(?P<branding_suffix>t[a-z]+-[A-Za-z0-9-]+)_(?P<frequency>[A-Za-z0-9]+)"
        rf"_(?P<region>[^_]+)_(?P<grid_label>g[^_]+)_{_RUN}(_[^_]*)?\.nc"
    ),
    re.compile(  # CMIP6, and CMIP5, whose names have no grid label before the range of dates
        rf"(?P<variable_id>[A-Za-z0-9]+)_(?P<table_id>[A-Za-z0-9]+)_{_RUN}(_(?P<grid_label>(?!{_DATES})[^_.]+))?"
        r"(_.*)?\.nc"
    ),
)
_CMIP5_TABLE = re.compile(r"Table (\w+)")  # "Table Amon (27 April 2011) a5a1c518f52ae340313ba0aada03f862"
_VERSION = re.compile(r"v\d+|\d{8}")
_NEEDED = ("source_id", "experiment_id", "variant_label", "variable_id")
_OPTIONAL = ("sub_experiment_id", "table_id", "branding_suffix", "frequency", "grid_label", "region")
_SAME_RUN = ("source_id", "experiment_id", "sub_experiment_id", "variant_label")
_IDENTITY = (
    "mip_era", "activity_id", "institution_id", "source_id", "experiment_id", "sub_experiment_id", "variant_label",
)  # fmt: skip
_READ = {*_NEEDED, *_OPTIONAL, *_IDENTITY, *BRANDING_LABELS, *RUN_FACETS, "branded_variable"}
_LONGEST_TEXT = 10_000  # characters of an attribute; a file may hold gigabytes
_CLIMATOLOGY = re.compile(r"\d*(hr|day|mon|yr)C\w*|\w*clim\w*", re.IGNORECASE)


def discover_cmip6(root: Path) -> tuple[list[CatalogEntry], list[SkippedFile]]:
    """All CMIP6 files below `root`, in order of their paths, and the files left out.

    Raises:
        UserError: there is no file; a file cannot be opened.
    """
    paths, skipped = find_files(root, (".nc",))
    if not paths:
        fix = "give the folder of the CMIP6 download, or another layout"
        raise no_files(root, "no NetCDF file (*.nc)", fix, skipped)
    measured = []
    for path in paths:
        file = path.relative_to(root).as_posix()
        try:
            with opened(path, file) as dataset:
                found = _read_entry(dataset, path.name, file)
                measured.append(found)
                skipped += _other_variables(dataset, found.entry)
        except Unusable as error:
            variable_id = path.name.split("_")[0]
            skipped.append(SkippedFile(file=file, reason=str(error), variable_id=variable_id))
    return with_measured_frequency(measured), skipped


def _read_entry(dataset: Any, name: str, file: str) -> MeasuredEntry:
    """The entry of an open file, and its time axis if the registry has the variable.

    Raises:
        Unusable: its header and name lack facets, or name two runs; its values are neither means nor instants.
        UserError: its time axis is invalid.
    """
    present = _READ.intersection(dataset.ncattrs())
    attributes = {key: str(dataset.getncattr(key))[:_LONGEST_TEXT].strip() for key in present}
    facets = _facets(attributes, name)
    stated = facets["frequency"] or _frequency_of_table(facets["table_id"])
    if known := facets["variable_id"] in VARIABLE_IDS:
        refuse_statistics(branding=facets["branding_suffix"])
        for key, text in (("frequency", stated), ("table", facets["table_id"])):
            if _CLIMATOLOGY.fullmatch(text):
                raise Unusable(f"its {key} is {text}: a climatology, not a series in time; leave it out")
    versions = [part for part in file.split("/")[:-1] if _VERSION.fullmatch(part)]
    entry = CatalogEntry(
        file=file,
        frequency=stated.removesuffix("Pt"),
        header_frequency=stated,
        grid_label=facets["grid_label"],
        branding=facets["branding_suffix"],
        region=facets["region"],
        version=versions[-1] if versions else "",
        identity=tuple((key, (attributes | facets).get(key, "")) for key in _IDENTITY),
        run=tuple(attributes.get(key, "").strip("[]").removesuffix(".0") for key in RUN_FACETS),  # numbers of any type
        source_id=facets["source_id"],
        experiment_id=facets["experiment_id"],
        sub_experiment_id=facets["sub_experiment_id"],
        variant_label=facets["variant_label"],
        table_id=facets["table_id"] or facets["branding_suffix"],
        variable_id=facets["variable_id"],
    )
    return measure(dataset, entry) if known else MeasuredEntry(entry)


def _other_variables(dataset: Any, entry: CatalogEntry) -> list[SkippedFile]:
    """Registry variables beside the one of the file, such as the surface pressure of model levels."""
    reason = f"{{}} beside {entry.variable_id}: only one variable of a file is read; split it, `cdo splitname`"
    return [
        SkippedFile(file=entry.file, reason=reason.format(name), variable_id=name, cause=Cause.NOT_SELECTED)
        for name, variable in dataset.variables.items()
        if name in VARIABLE_IDS and entry.variable_id in VARIABLE_IDS and name != entry.variable_id
        if variable.ndim > 1
    ]


def _facets(attributes: dict[str, str], name: str) -> dict[str, str]:
    """Facets from the header, and from the file name where the header lacks them; "" for optional ones that are absent.

    Raises:
        Unusable: one that is needed is in neither; header and name name different runs.
    """
    matches = (pattern.fullmatch(name) for pattern in _FILE_NAMES)
    named = next((match.groupdict(default="") for match in matches if match), {})
    stated = {key: attributes[key] for key in (*_NEEDED, *_OPTIONAL) if attributes.get(key, "") not in ("", "none")}
    if table := _CMIP5_TABLE.match(stated.get("table_id", "")):
        stated["table_id"] = table.group(1)
    if branding := stated.get("branding_suffix") or branding_of(attributes | {"branding_suffix": ""}):
        stated["branding_suffix"] = branding
    other = [key for key in _SAME_RUN if stated.get(key) and named.get(key) and stated[key] != named[key]]
    if other:
        listed = ", ".join(f"{key} {stated[key]} and {named[key]}" for key in other)
        raise Unusable(f"its header and its name differ ({listed}): rename it, or correct the header")
    facets = dict.fromkeys(_OPTIONAL, "") | {key: value for key, value in named.items() if value} | stated
    absent = [key for key in _NEEDED if not facets.get(key)]
    if not (facets["table_id"] or facets["branding_suffix"]):
        absent.append("table_id")
    if absent:
        raise Unusable(f"its header and name lack {', '.join(absent)}: not a CMIP6 file")
    return facets


def _frequency_of_table(table_id: str) -> str:
    found = _TABLE_FREQUENCY.search(table_id)
    return found.group(1).lower() if found else ""
