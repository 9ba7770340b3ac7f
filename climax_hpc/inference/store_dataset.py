"""A store on the network as an xarray data set, read lazily and with the checks and retries of `FetchedVariable`."""

from typing import Any

import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from climax_hpc.config.network import NetworkConfig
from climax_hpc.data_prep.stores.find_stores import find_stores
from climax_hpc.data_prep.stores.open_store import open_dataset
from climax_hpc.data_prep.stores.variable import FetchedVariable
from climax_hpc.errors import UserError


class _LazyArray(BackendArray):
    """The stored values of an array, read where they are indexed."""

    def __init__(self, variable: FetchedVariable) -> None:
        self.shape, self.dtype, self._variable = variable.shape, variable.dtype, variable

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._variable.read)


def open_store_datasets(given: str, network: NetworkConfig) -> list[xr.Dataset]:
    """The stores at a URL or path, or below a prefix.

    Raises:
        UserError: there is none; its variables cannot be decoded.
        Unreachable: its server does not answer, or refuses.
    """
    stores = find_stores([given], network)
    datasets = []
    for name in stores.stores:
        held = open_dataset(stores / name)
        variables = {key: _variable(variable) for key, variable in held.variables.items()}
        try:
            datasets.append(xr.decode_cf(xr.Dataset(variables, attrs=dict(held.attributes))))
        except UserError:
            raise
        except Exception as error:  # xarray raises many kinds
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"input: {stores}: {name} cannot be decoded ({reason}); correct its attributes") from None
    return datasets


def _variable(variable: FetchedVariable) -> xr.Variable:
    data = indexing.LazilyIndexedArray(_LazyArray(variable))
    return xr.Variable(variable.dimensions, data, variable.stored_attributes)
