"""Opens NetCDF files, zarr stores and stores on the network lazily."""

from collections.abc import Sequence
from pathlib import Path

import netCDF4
import xarray as xr

from climax_hpc.config.network import NetworkConfig
from climax_hpc.data_prep.sources.conversions import short
from climax_hpc.data_prep.sources.file_format import why_not_netcdf
from climax_hpc.data_prep.sources.find_files import find_files, special_kind
from climax_hpc.data_prep.sources.open_input import check_sizes
from climax_hpc.data_prep.sources.skipped import Cause
from climax_hpc.data_prep.stores.local_kinds import is_store_input, is_zarr
from climax_hpc.data_prep.stores.sessions import close_sessions
from climax_hpc.errors import UserError
from climax_hpc.utils.system_errors import refuse_system_error


def open_files(paths: Sequence[str | Path], network: NetworkConfig | None = None) -> list[xr.Dataset]:
    """Open NetCDF files and stores, at paths or URLs; a folder or prefix stands for all of them below it.

    Stores are asked again: nothing of an earlier call is used, which may have read another state of them.

    Raises:
        UserError: a path does not exist, holds no such file, or cannot be read.
        Unreachable: the server of a URL does not answer, or refuses.
    """
    close_sessions()
    opened: list[xr.Dataset] = []
    for path in paths:
        if is_store_input(str(path)):
            from climax_hpc.inference.store_dataset import open_store_datasets  # imports zarr

            opened += open_store_datasets(str(path), network or NetworkConfig())
        else:
            opened += [_open(file) for file in _files_of(Path(path))]
    return opened


def _files_of(path: Path) -> list[Path]:
    if not path.is_dir() or is_zarr(path):
        return [path]
    found, skipped = find_files(path, (".nc", ".zarr"))
    for unusable in (s for s in skipped if s.cause is Cause.UNUSABLE):
        raise UserError(f"input: {path}/{unusable.file} {unusable.reason}; or name the files to read")
    if not found:
        raise UserError(f"input: {path} is a folder without NetCDF files, zarr metadata or manifest.json")
    return found


def _open(path: Path) -> xr.Dataset:
    if not path.exists():
        raise UserError(f"input: {path} does not exist")
    if kind := special_kind(path.stat().st_mode):
        raise UserError(f"input: {path} is {kind}, not a file; give NetCDF files or zarr stores")
    engine = "zarr" if is_zarr(path) else "netcdf4"
    if path.is_dir() and engine != "zarr":
        raise UserError(f"input: {path} is a folder without zarr metadata; copy the store again")
    try:
        if engine == "netcdf4":
            with netCDF4.Dataset(path) as dataset:  # before xarray, which reads whole axes
                check_sizes(dataset, path, f"input: {path}")
        return xr.open_dataset(path, engine=engine, chunks=None, cache=False)
    except UserError:
        raise
    except Exception as error:  # every engine raises its own kinds
        refuse_system_error(error, path)
        unread = isinstance(error, OSError) and not path.is_dir()
        why = f"it {why_not_netcdf(path, error)}" if unread else f"its contents cannot be decoded ({short(error)})"
        raise UserError(f"input: {path} cannot be opened as NetCDF or zarr: {why}") from None
