"""Opens the input of `climax-hpc predict`: a packed data set, NetCDF files, or stores at paths and URLs."""

from pathlib import Path

from climax_hpc.config.inference import PredictConfig
from climax_hpc.config.network import network_of
from climax_hpc.config.training import require
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data_prep.stores.urls import display
from climax_hpc.fields.grid import Grid
from climax_hpc.inference.initial_conditions import ShardInitialConditions, choose_source
from climax_hpc.inference.open_files import open_files
from climax_hpc.inference.xarray_input import XarrayInitialConditions
from climax_hpc.shards.manifest import FILE_NAME

FileStates = ShardInitialConditions | XarrayInitialConditions
"""States that are read from files, and know what tells apart two states of them."""


def open_input(config: PredictConfig, target: Grid | None) -> tuple[FileStates, PackedSource | None]:
    """The states of `config.input`, and the packed source they come from (None for NetCDF and zarr).

    `target`: grid wanted for input that is not packed.

    Raises:
        UserError: no such source; files without a usable variable; another grid while `regrid` is null.
    """
    paths = [config.input] if isinstance(config.input, str) else list(config.input)
    if len(paths) == 1 and (Path(paths[0]) / FILE_NAME).is_file():
        dataset = DataSet(paths[0])
        require(
            not config.regrid,
            "regrid: does not apply to a packed data set; leave it out, or pack on the model's grid",
        )
        source = choose_source(dataset, config.source, "source")
        return ShardInitialConditions(source), source
    datasets, title = open_files(paths, network_of(config)), ", ".join(map(display, paths))
    return XarrayInitialConditions(datasets, title, target=target, regrid=config.regrid), None
