"""Arrays that claim far more than their file holds are refused before memory is taken for them.

HDF5 and zarr store nothing for what was never written: a file of a few kilobytes may claim an axis of 10⁹ steps.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from climax_hpc.errors import UserError
from climax_hpc.utils.formatting import readable_size
from climax_hpc.utils.names import shown

LONGEST_AXIS = 20_000_000
"""Values of a coordinate; 2000 years of hours."""
_SMALL_BYTES = 16 << 20
_LARGEST_RATIO = 2000  # zlib packs at most 1032 bytes into one
_WHOLE_BYTES = 256 << 20
_WHOLE_RATIO = 50  # of doubles; E-OBS precipitation over Iberia, mostly sea: 28


def check_claims(variables: Iterable[Any], stored_bytes: int, name: str) -> None:
    """Check variables (with `name`, `shape`, `dtype`) against the bytes that are stored for all of them.

    Raises:
        UserError: one claims more than any compression explains; names the file, `name`.
    """
    for variable in variables:
        check_claim(variable.name, variable.shape, getattr(variable.dtype, "itemsize", 8), stored_bytes, name)


def check_claim(variable: str, shape: Sequence[int], itemsize: int, stored_bytes: int, name: str) -> None:
    """`check_claims` for one array, or the part of it that is read."""
    claimed = math.prod(shape) * itemsize
    if claimed > max(_SMALL_BYTES, _LARGEST_RATIO * stored_bytes):
        raise UserError(
            f"{name}: {shown(variable)} of shape {tuple(shape)} claims {readable_size(claimed)}, but only "
            f"{readable_size(stored_bytes)} are stored: it is damaged or incomplete; download it again"
        )


def check_expanded(size: int, stored_bytes: int, name: str) -> None:
    """Check the bytes that a file has expanded to so far, of a format that is held in memory as a whole.

    Raises:
        UserError: they are far more than a grid takes; names the file, `name`.
    """
    if size > max(_WHOLE_BYTES, _WHOLE_RATIO * stored_bytes):
        raise UserError(
            f"{name}: its {readable_size(stored_bytes)} expand to more than {readable_size(size)}, which no grid "
            "does: it is damaged, or made to fill the memory; download it again"
        )
