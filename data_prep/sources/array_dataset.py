"""Variables held as arrays with the attribute access of netCDF4's, for inputs that are not NetCDF."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DECODED = (
    "coordinates", "grid_mapping", "units", "calendar", "bounds", "climatology", "scale_factor", "add_offset",
)  # fmt: skip
"""Attributes that xarray moves to `encoding`."""


class ArrayVariable:
    """A variable over any array-like; attributes are read as those of a netCDF4 variable."""

    def __init__(self, name: str, dimensions: tuple[str, ...], array: Any, attributes: Mapping[str, Any]) -> None:
        self.name, self.dimensions, self._array, self._attributes = name, dimensions, array, attributes
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __getattr__(self, key: str) -> Any:
        try:
            return self.__dict__["_attributes"][key]
        except KeyError:
            raise AttributeError(key) from None

    def __getitem__(self, key: Any) -> NDArray[Any]:
        return np.asarray(self._array[key])

    def prefetch(self, key: tuple[Any, ...]) -> None:
        """Start to read a part that will be needed soon, where that takes long: in stores on the network."""


@dataclass(frozen=True)
class ArrayDataset:
    """A data set of `ArrayVariable`s; global attributes are read as those of a netCDF4 data set."""

    variables: Mapping[str, Any]
    attributes: Mapping[str, Any]
    groups: tuple[str, ...] = ()
    """Names of groups below it, whose variables are not read."""

    def ncattrs(self) -> list[str]:
        """Names of the global attributes."""
        return list(self.attributes)

    def getncattr(self, name: str) -> Any:
        """A global attribute."""
        return self.attributes[name]


def from_xarray(dataset: Any) -> ArrayDataset:
    """An xarray data set as it would be read from its file: coordinates that xarray decoded are attributes again."""
    variables = {}
    for name, variable in dataset.variables.items():
        attributes = {str(key): value for key, value in variable.attrs.items()}
        for key in _DECODED:
            if key in variable.encoding:
                attributes.setdefault(key, variable.encoding[key])
        if name in dataset.data_vars:
            attributes.setdefault(
                "coordinates", " ".join(str(c) for c in dataset[name].coords if c not in variable.dims)
            )
        variables[str(name)] = ArrayVariable(str(name), tuple(map(str, variable.dims)), variable, attributes)
    return ArrayDataset(variables, dict(dataset.attrs))
