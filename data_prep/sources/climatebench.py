"""Finds ClimateBench files as published: yearly `inputs_<experiment>.nc` and `outputs_<experiment>.nc`.

Inputs and outputs of an experiment are one source, NorESM2-LM at yearly steps. CO2 and CH4, one number per year, become
uniform fields; outputs are the mean over ensemble members, as in the benchmark. The archives contain the historical
files twice, in `train_val` and in `test`: the first file of each name is used.
"""

import re

import numpy as np

from climax_hpc.data_prep.sources.catalog import CatalogEntry
from climax_hpc.data_prep.sources.conversions import Alias
from climax_hpc.data_prep.sources.coordinates import Unusable
from climax_hpc.data_prep.sources.find_files import find_files, no_files
from climax_hpc.data_prep.sources.input_root import Root, folder_of_files
from climax_hpc.data_prep.sources.named_fields import named_fields
from climax_hpc.data_prep.sources.open_input import opened
from climax_hpc.data_prep.sources.read_file import times_of
from climax_hpc.data_prep.sources.skipped import SkippedFile
from climax_hpc.fields.calendars import Seconds, frequency_of_steps, length_text

_NAME = re.compile(r"(?P<kind>inputs|outputs)_(?P<experiment>[A-Za-z0-9-]+)\.nc")
_IDENTITY = (("source_id", "NorESM2-LM"), ("institution_id", "NCC"), ("layout", "climatebench"))


def discover_climatebench(root: Root) -> tuple[list[CatalogEntry], list[SkippedFile]]:
    """One entry per known variable of each file below `root`, and the files left out.

    Raises:
        UserError: there is no ClimateBench file; a file cannot be opened.
    """
    root = folder_of_files(root)
    paths, skipped = find_files(root, (".nc",))
    known = [(path, named) for path in paths if (named := _NAME.fullmatch(path.name))]
    if not known:
        fix = "give the folder of the ClimateBench download, or another layout"
        raise no_files(root, "no inputs_<experiment>.nc or outputs_<experiment>.nc", fix, skipped)
    names = {path for path, _ in known}
    entries: list[CatalogEntry] = []
    skipped += [
        SkippedFile(file=path.relative_to(root).as_posix(), reason="it is not named as a ClimateBench file")
        for path in paths
        if path not in names
    ]
    taken: dict[str, str] = {}
    for path, named in known:
        file = path.relative_to(root).as_posix()
        if path.name in taken:
            skipped.append(SkippedFile(file=file, reason=f"{taken[path.name]} has the same name and is used"))
            continue
        taken[path.name] = file
        with opened(path, file) as dataset:
            title = str(dataset.getncattr("title")) if "title" in dataset.ncattrs() else ""
            fields, others = named_fields(dataset, "climatebench", file)
            skipped += others
            for variable, alias, _ in fields:
                entry = _entry(file, variable.name, alias, named["experiment"], title)
                try:
                    _refuse_other_steps(times_of(dataset, variable, file, alias.cell_methods)[0])
                    entries.append(entry)
                except Unusable as error:
                    skipped.append(entry.skipped(str(error)))
    return entries, skipped


def _refuse_other_steps(seconds: Seconds) -> None:
    steps = np.diff(seconds)
    if len(steps) and frequency_of_steps(steps) != "yr":
        raise Unusable(f"its time steps are {length_text(int(np.median(steps)))}, not years as in ClimateBench")


def _entry(file: str, name: str, alias: Alias, experiment: str, title: str) -> CatalogEntry:
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
