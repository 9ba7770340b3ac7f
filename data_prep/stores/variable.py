"""An array of a fetched store, read like a variable of a NetCDF file."""

import time
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.data_prep.sources.claimed_size import check_claim
from climax_hpc.data_prep.sources.conversions import short
from climax_hpc.data_prep.sources.open_zarr import ZarrArrayVariable
from climax_hpc.data_prep.stores.failures import LATER
from climax_hpc.data_prep.stores.fetched_store import FetchedStore
from climax_hpc.errors import Unreachable, UserError

READS = 6
"""Times that what cannot be decoded is fetched: what damaged it may be over."""
WAIT_S = 0.2


class FetchedVariable(ZarrArrayVariable):
    """One array of a store; its chunks are fetched at the same time."""

    def __init__(self, array: Any, name: str, store: FetchedStore) -> None:
        super().__init__(array, name)
        self._store = store

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Unpacked numbers, missing values as NaN. Integers without packing stay integers.

        Raises:
            UserError, Unreachable: see `read`.
        """
        return self.unpacked(self.read(key))

    def read(self, key: Any) -> NDArray[Any]:
        """Numbers as they are stored.

        Raises:
            UserError: a chunk is absent, or claims more than it holds.
            Unreachable: a chunk cannot be read, or not be decoded.
        """
        names, shape = self.chunks_of(key if isinstance(key, tuple) else (key,))
        for attempt in range(1, READS + 1):
            if not self._is_sharded:
                stored = sum(map(len, self._store.fetch(names)))
                check_claim(self.name, shape, self.dtype.itemsize, stored, self._store.name)
            try:
                return np.asarray(self._array[key])
            except UserError:
                raise
            except Exception as error:  # every codec raises its own kind
                if attempt == READS:
                    raise Unreachable(
                        f"{self._store.name}: {self.name} cannot be decoded ({short(error)}), {READS} times: it is "
                        f"damaged there, or on the way, or the server sends something else; {LATER}"
                    ) from error
            self._store.forget(None if self._is_sharded else self._damaged(names))
            time.sleep(WAIT_S * attempt)
        raise AssertionError("not reached")

    def _damaged(self, names: list[str]) -> list[str]:
        """Chunks that cannot be decoded; all where each of them can."""
        found = []
        for name in names:
            try:
                _ = self._array[self.region_of(name)]
            except UserError:
                raise
            except Exception:  # every codec raises its own kind
                found.append(name)
        return found or names

    def prefetch(self, key: Any) -> None:
        """Start to fetch the chunks of a part that will be read soon; arrays of shards are read in parts."""
        if not self._is_sharded:
            names, _ = self.chunks_of(key)
            self._store.prefetch(names, prod(self._array.chunks) * self.dtype.itemsize)

    @property
    def _is_sharded(self) -> bool:
        return getattr(self._array, "shards", None) is not None
