"""Opens an input of any format (NetCDF, zarr store, R data) as an object with the interface of a netCDF4 data set.

The object has `variables`, a mapping of names to variables with `name`, `dimensions`, `shape`, `dtype`, attributes, and
slicing that returns numbers with missing values masked or NaN. For a NetCDF file it is netCDF4's own object.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np

from climax_hpc.data_prep.sources.claimed_size import check_claims
from climax_hpc.data_prep.sources.file_format import why_not_netcdf
from climax_hpc.data_prep.sources.open_anemoi import as_fields
from climax_hpc.data_prep.stores.local_kinds import zarr_store
from climax_hpc.data_prep.stores.store_list import StorePath
from climax_hpc.errors import UserError
from climax_hpc.utils.files import check_is_plain_file
from climax_hpc.utils.system_errors import refuse_system_error

_CHUNK_CACHE_BYTES = 256 << 20  # room for one row of chunks if a chunk spans many time steps


@contextmanager
def opened(path: Path | StorePath, name: str) -> Iterator[Any]:
    """The open data set of a NetCDF file, of a store or an array in it (`store.zarr/array`), or of an .rda file.

    Raises:
        UserError: the file does not have this format, or is truncated.
    """
    if isinstance(path, StorePath):
        from climax_hpc.data_prep.stores.open_store import open_dataset  # slow to import, as below

        yield as_fields(open_dataset(path))
        return
    store = zarr_store(path)
    if store is not None:
        from climax_hpc.data_prep.sources.open_zarr import open_zarr  # slow to import, and most inputs are NetCDF

        yield as_fields(open_zarr(store, name))
    elif path.suffix == ".rda":
        from climax_hpc.data_prep.sources.open_rda import open_rda

        yield open_rda(path, name)
    else:
        with _opened_netcdf(path, name) as dataset:
            yield dataset


def no_fields(dataset: Any) -> str:
    """Why a data set offers no variable at all; empty if it does."""
    if any(variable.dimensions for variable in dataset.variables.values()):
        return ""
    groups = ", ".join(getattr(dataset, "groups", ()))
    return f"holds its variables in groups ({groups}), not at its root" if groups else "holds no variables"


@contextmanager
def _opened_netcdf(path: Path, name: str) -> Iterator[Any]:
    check_is_plain_file(path, "a NetCDF file")
    try:
        dataset = netCDF4.Dataset(path)
    except OSError as error:
        refuse_system_error(error, path)
        raise UserError(f"{name}: {why_not_netcdf(path, error)}") from error
    except UnicodeDecodeError as error:  # the name of an attribute
        raise _damaged_header(name, error) from error
    try:
        _check_attributes(dataset, name)
        check_sizes(dataset, path, name)
        yield dataset
    except RuntimeError as error:
        if not str(error).startswith("NetCDF:"):
            raise
        refuse_system_error(error, path)
        raise UserError(f"{name}: is damaged ({error}); download it again") from error
    finally:
        dataset.close()


def check_sizes(dataset: Any, path: Path, name: str) -> None:
    """Check that the variables of an open NetCDF file can be in it.

    Raises:
        UserError: the file is truncated, or a variable claims far more than is stored.
    """
    _refuse_short_classic(dataset, path, name)
    check_claims(dataset.variables.values(), os.path.getsize(path), name)


def _check_attributes(dataset: Any, name: str) -> None:
    """Refuse damaged attributes, which the library reports when they are read, and packing that gives no numbers."""
    try:
        for holder in (dataset, *dataset.variables.values()):
            found = {attribute: holder.getncattr(attribute) for attribute in holder.ncattrs()}
            for attribute in {"scale_factor", "add_offset"} & found.keys():
                if not np.isfinite(found[attribute]).all() or (attribute == "scale_factor" and not found[attribute]):
                    raise UserError(f"{name}: {attribute} = {found[attribute]} gives no values; correct or remove it")
    except (AttributeError, RuntimeError, ValueError, TypeError) as error:
        raise _damaged_header(name, error) from error


def _damaged_header(name: str, error: Exception) -> UserError:
    return UserError(f"{name}: its header is damaged ({error}); download it again")


def _refuse_short_classic(dataset: Any, path: Path, name: str) -> None:
    """Refuse truncated NetCDF-3 files: the library reads zeros past their end without an error."""
    if dataset.data_model.startswith("NETCDF3"):
        needed = sum(v.size * v.dtype.itemsize for v in dataset.variables.values())
        if os.path.getsize(path) < needed:
            raise UserError(
                f"{name}: is truncated (has {os.path.getsize(path)} bytes, needs more than {needed}); download it again"
            )


def set_chunk_cache(dataset: Any, variable: str) -> None:
    """Make room in the cache for a row of chunks, so that chunks that span many steps are decompressed once."""
    if not isinstance(dataset, netCDF4.Dataset):
        return
    found = dataset.variables[variable]
    chunks = found.chunking()
    if isinstance(chunks, list):
        row = int(np.prod([-(-n // c) * c for n, c in zip(found.shape[1:], chunks[1:], strict=True)]))
        wanted = row * (chunks[0] if chunks else 1) * found.dtype.itemsize
        found.set_var_chunk_cache(size=min(max(wanted, 1 << 20), _CHUNK_CACHE_BYTES))
