"""Finds ClimateBench as published: `inputs_<experiment>.nc` and `outputs_<experiment>.nc`, yearly.

Inputs and outputs of an experiment are one source, NorESM2-LM at yearly steps. CO2 and CH4, one number a year, become
fields of that value in every cell; the outputs of several ensemble members become their mean, as in the benchmark.
Its archives repeat the historical files in both folders, `train_val` and `test`: the first of a name is taken.
"""

import re
from pathlib import Path

from climax_hpc.data_prep.sources.catalog import CatalogEntry, SkippedFile
from climax_hpc.data_prep.sources.conversions import ALIASES
from climax_hpc.data_prep.sources.open_input import opened
from climax_hpc.errors import UserError

_NAME = re.compile(r"(?P<kind>inputs|outputs)_(?P<experiment>[A-Za-z0-9-]+)\.nc")
_IDENTITY = (("source_id", "NorESM2-LM"), ("institution_id", "NCC"), ("layout", "climatebench"))


def discover_climatebench(root: Path) -> tuple[list[CatalogEntry], list[SkippedFile]]:
    """One entry per known variable of each file below `root`, and what is left out.

    Raises:
        UserError: no such file; a file that cannot be opened.
    """
    paths = sorted(path for path in root.rglob("*.nc") if path.is_file())
    known = [(path, named) for path in paths if (named := _NAME.fullmatch(path.name))]
    if not known:
        raise UserError(
            f"{root}: holds no inputs_<experiment>.nc or outputs_<experiment>.nc; name the folder of the ClimateBench "
            "download, or another layout"
        )
    names = {path for path, _ in known}
    entries: list[CatalogEntry] = []
    skipped = [
        SkippedFile(file=path.relative_to(root).as_posix(), reason="its name is not one of ClimateBench's")
        for path in paths
        if path not in names
    ]
    taken: dict[str, str] = {}
    for path, named in known:
        file = path.relative_to(root).as_posix()
        if path.name in taken:
            skipped.append(SkippedFile(file=file, reason=f"{taken[path.name]} of the same name is taken"))
            continue
        taken[path.name] = file
        with opened(path, file) as dataset:
            title = str(dataset.getncattr("title")) if "title" in dataset.ncattrs() else ""
            for name in ALIASES["climatebench"]:
                if name in dataset.variables:
                    entries.append(_entry(file, name, named["experiment"], title))
    return entries, skipped


def _entry(file: str, name: str, experiment: str, title: str) -> CatalogEntry:
    alias = ALIASES["climatebench"][name]
    return CatalogEntry(
        file=file,
        source_id="NorESM2-LM",
        experiment_id=experiment,
        variant_label="mean",
        table_id="climatebench",
        variable_id=alias.variable_id,
        frequency="yr",
        identity=(*_IDENTITY, ("experiment_id", experiment), ("title", title)),
        name=name,
        alias=alias,
    )
