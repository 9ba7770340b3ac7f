"""The layouts of input folders, each with the function that finds its files.

To add a layout, add a line to `LAYOUTS`: its name in `pack`'s config, and a function (input folder) -> (catalogue
entries, files left out). `find_files` finds the files, and lists what it leaves out.
"""

from collections.abc import Callable

from climax_hpc.data_prep.sources.catalog import CatalogEntry
from climax_hpc.data_prep.sources.input_root import Root
from climax_hpc.data_prep.sources.skipped import SkippedFile
from climax_hpc.utils.references import load

LAYOUTS: dict[str, str] = {
    "cmip6": "climax_hpc.data_prep.sources.cmip6:discover_cmip6",
    "era5": "climax_hpc.data_prep.sources.era5:discover_era5",
    "anemoi": "climax_hpc.data_prep.sources.anemoi:discover_anemoi",
    "climatebench": "climax_hpc.data_prep.sources.climatebench:discover_climatebench",
    "climate4r": "climax_hpc.data_prep.sources.climate4r:discover_climate4r",
}
"""Layout -> "module:function", imported only when the layout is used: some readers are slow to import."""


def discover(layout: str, root: Root) -> tuple[list[CatalogEntry], list[SkippedFile]]:
    """All variables in the files below `root`, and the files left out with the reason.

    Raises:
        UserError: there is no file of the layout; a file cannot be opened.
    """
    function: Callable[[Root], tuple[list[CatalogEntry], list[SkippedFile]]] = load(LAYOUTS[layout])
    return function(root)
