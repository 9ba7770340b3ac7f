"""The layouts of input folders, each with the function that finds its files."""

from collections.abc import Callable
from pathlib import Path

from climax_hpc.data_prep.sources.catalog import CatalogEntry, SkippedFile
from climax_hpc.data_prep.sources.climate4r import discover_climate4r
from climax_hpc.data_prep.sources.climatebench import discover_climatebench
from climax_hpc.data_prep.sources.cmip6 import discover_cmip6
from climax_hpc.data_prep.sources.era5 import discover_era5

DISCOVER: dict[str, Callable[[Path], tuple[list[CatalogEntry], list[SkippedFile]]]] = {
    "cmip6": discover_cmip6,
    "era5": discover_era5,
    "climatebench": discover_climatebench,
    "climate4r": discover_climate4r,
}
