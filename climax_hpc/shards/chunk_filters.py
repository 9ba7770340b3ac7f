"""HDF5 filters of the chunks of `/fields`: shuffle and gzip, undone without HDF5 and its global lock."""

import zlib
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from climax_hpc.errors import UserError

_SHUFFLE, _DEFLATE = 2, 1  # ids of HDF5 filters
DEFLATE_LEVEL = 4  # higher levels of zlib take twice the time and save one percent of the size


def filters_of(fields: h5py.Dataset, path: str) -> Sequence[int]:
    """Ids of the HDF5 filters of the data set, in the order in which they were applied.

    Raises:
        UserError: a filter other than gzip and shuffle.
    """
    plist = fields.id.get_create_plist()
    found = [plist.get_filter(i) for i in range(plist.get_nfilters())]
    for number, _, _, name in found:
        if number not in (_SHUFFLE, _DEFLATE):
            raise UserError(
                f"{path}: is compressed with HDF5 filter {number} ({name.decode(errors='replace')}), which is not "
                "supported: pack it again, without compression or with gzip"
            )
    return [number for number, *_ in found]


def inflated(stored: Any, filters: Sequence[int], mask: int, itemsize: int) -> Any:
    """The bytes of a chunk before the filters; `mask`: bit i is set where filter i was skipped.

    Raises:
        ValueError: it cannot be decompressed.
    """
    content = stored
    for place in reversed(range(len(filters))):
        if mask >> place & 1:
            continue
        if filters[place] == _DEFLATE:
            try:
                content = zlib.decompress(content)
            except zlib.error as error:
                raise ValueError("cannot be decompressed") from error
        else:
            raw = np.frombuffer(content, np.uint8)
            if len(raw) % itemsize:
                raise ValueError(f"has {len(raw)} bytes, which are no whole numbers")
            content = raw.reshape(itemsize, -1).T.tobytes()
    return content


def deflated(raw: NDArray[np.uint8], itemsize: int) -> bytes:
    """A chunk after shuffle (the first bytes of all numbers, then their second bytes, and so on) and gzip."""
    return zlib.compress(raw.reshape(-1, itemsize).T.tobytes(), DEFLATE_LEVEL)
