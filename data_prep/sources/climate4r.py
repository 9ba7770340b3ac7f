"""Finds climate4R grids: files `<data set>_<domain>_<variable>.rda` of one variable each."""

from climax_hpc.data_prep.sources.catalog import CatalogEntry
from climax_hpc.data_prep.sources.conversions import ALIASES, Alias
from climax_hpc.data_prep.sources.find_files import find_files, no_files
from climax_hpc.data_prep.sources.input_root import Root, folder_of_files
from climax_hpc.data_prep.sources.open_rda import open_rda
from climax_hpc.data_prep.sources.skipped import SkippedFile
from climax_hpc.fields.calendars import decode_times, frequency_of


def discover_climate4r(root: Root) -> tuple[list[CatalogEntry], list[SkippedFile]]:
    """One entry per .rda file below `root`, and the files left out; the source is the file name without its variable.

    Raises:
        UserError: there is no .rda file; a file is not a climate4R grid.
    """
    root = folder_of_files(root)
    paths, skipped = find_files(root, (".rda",))
    if not paths:
        fix = "give the folder of the climate4R grids, or another layout"
        raise no_files(root, "no .rda file", fix, skipped)
    entries = []
    for path in paths:
        file = path.relative_to(root).as_posix()
        dataset = open_rda(path, file)
        name = str(dataset.getncattr("variable_id"))
        alias = ALIASES["climate4r"].get(name) or Alias(variable_id=name)
        data_set, _, rest = path.stem.partition("_")
        domain, _, scenario = rest.partition(".")
        axis = dataset.variables["time"]
        seconds, _ = decode_times(axis[:], axis.units, axis.calendar, file)
        entries.append(
            CatalogEntry(
                file=file,
                source_id=data_set,
                experiment_id=scenario or "observed",
                variant_label=domain.split("_")[0] or "grid",
                table_id="climate4r",
                variable_id=alias.variable_id,
                frequency=frequency_of(seconds, axis.calendar) or "unknown",
                grid_label="gn",
                identity=(("source_id", data_set), ("layout", "climate4r")),
                name=name,
                alias=alias,
            )
        )
    return entries, skipped
