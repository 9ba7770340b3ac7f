"""Stores named by URLs or paths, in the role that the folder of files has for input on disk."""

from dataclasses import dataclass, field
from typing import Literal

from climax_hpc.config.network import NetworkConfig
from climax_hpc.data_prep.sources.skipped import SkippedFile

Kind = Literal["zarr", "icechunk", "references"]


@dataclass(frozen=True)
class FoundStore:
    """One store."""

    url: str = field(repr=False)
    """With user and password, if the URL has them: never shown."""
    kind: Kind
    snapshot: str = ""
    """Id of the snapshot of an icechunk repository, so that all ranks read the same."""


@dataclass(frozen=True)
class StorePath:
    """A store, or an array of it: what `StoreList / file` gives."""

    store: FoundStore
    array: str
    """Name of the array; empty for the whole store."""
    network: NetworkConfig = field(repr=False)


@dataclass(frozen=True)
class StoreList:
    """The stores of an input by their names in messages and manifests."""

    title: str
    """The input, for messages."""
    stores: dict[str, FoundStore]
    network: NetworkConfig = field(repr=False)
    skipped: list[SkippedFile] = field(default_factory=list)
    """What was found beside them."""

    def __truediv__(self, file: str) -> StorePath:
        """The store of that name, or an array below it."""
        name = file
        while name not in self.stores:
            name, slash, _ = name.rpartition("/")
            if not slash:
                raise KeyError(file)
        return StorePath(self.stores[name], file[len(name) + 1 :], self.network)

    def __str__(self) -> str:
        return self.title
