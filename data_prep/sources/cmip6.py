"""Finds CMIP6 files: NetCDF whose facets are in the header or in the file name."""

import re
from pathlib import Path

from climax_hpc.data_prep.sources.catalog import CatalogEntry
from climax_hpc.data_prep.sources.find_files import find_files, no_files
from climax_hpc.data_prep.sources.open_input import opened
from climax_hpc.data_prep.sources.skipped import SkippedFile

_FREQUENCIES = {"6hrPt": "6hr", "3hrPt": "3hr", "1hrPt": "1hr", "monPt": "mon"}
_TABLE_FREQUENCY = re.compile(r"(1hr|3hr|6hr|day|mon|fx)", re.IGNORECASE)
_FILE_NAME = re.compile(
    r"(?P<variable_id>[A-Za-z0-9]+)_(?P<table_id>[A-Za-z0-9]+)_(?P<source_id>[^_]+)_(?P<experiment_id>[^_]+)"
    r"_(?P<variant_label>[^_]+)_(?P<grid_label>[^_.]+)(_.*)?\.nc"
)
_VERSION = re.compile(r"v\d+")
FACETS = ("source_id", "experiment_id", "variant_label", "table_id", "variable_id", "frequency", "grid_label")
_IDENTITY = ("mip_era", "activity_id", "institution_id", "source_id", "experiment_id", "variant_label")


def discover_cmip6(root: Path) -> tuple[list[CatalogEntry], list[SkippedFile]]:
    """All CMIP6 files below `root`, in order of their paths, and the files left out.

    Raises:
        UserError: there is no file; a file cannot be opened.
    """
    paths, skipped = find_files(root, (".nc",))
    if not paths:
        fix = "give the folder of the CMIP6 download, or another layout"
        raise no_files(root, "no NetCDF file (*.nc)", fix, skipped)
    entries = []
    for path in paths:
        file = path.relative_to(root).as_posix()
        entry = _read_entry(path, file)
        if isinstance(entry, SkippedFile):
            skipped.append(entry)
        else:
            entries.append(entry)
    return entries, skipped


def _read_entry(path: Path, file: str) -> CatalogEntry | SkippedFile:
    named = _FILE_NAME.fullmatch(path.name)
    facets: dict[str, str] = named.groupdict(default="") if named else {}
    with opened(path, file) as dataset:
        attributes = {name: str(dataset.getncattr(name)).strip() for name in dataset.ncattrs()}
    facets |= {name: attributes[name] for name in FACETS if attributes.get(name)}
    absent = [name for name in FACETS if name not in facets and name not in ("frequency", "grid_label")]
    if absent:
        return SkippedFile(file=file, reason=f"its header and name lack {', '.join(absent)}: not a CMIP6 file")
    frequency = facets.get("frequency", "")
    if not frequency:
        found = _TABLE_FREQUENCY.search(facets["table_id"])
        frequency = found.group(1).lower() if found else "unknown"
    versions = [part for part in Path(file).parts if _VERSION.fullmatch(part)]
    return CatalogEntry(
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
