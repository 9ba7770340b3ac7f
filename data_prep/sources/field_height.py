"""Height of near-surface fields: those that their coordinates place far from where their name says are refused."""

import math
from typing import Any

from climax_hpc.data_prep.sources.coordinates import Unusable, attribute, numbers

_HEIGHT_M = {"tas": 2.0, "uas": 10.0, "vas": 10.0}  # CMIP6 data request
_LARGEST_RATIO = 5.0  # 1.5 m, or the middle of the lowest layer, is near enough


def refuse_other_height(dataset: Any, variable: Any, variable_id: str) -> None:
    """Refuse a field at one height above ground that is not near the surface, such as wind at 100 m.

    Raises:
        Unusable: names the coordinate and the height.
    """
    usual = _HEIGHT_M.get(variable_id)
    for name in (*attribute(variable, "coordinates").split(), *variable.dimensions):
        height = dataset.variables.get(name)
        if usual is None or height is None or attribute(height, "standard_name") != "height":
            continue
        if math.prod(height.shape) != 1 or attribute(height, "units") != "m":
            continue
        metres = float(numbers(height)[0])
        if not usual / _LARGEST_RATIO <= metres <= usual * _LARGEST_RATIO:
            raise Unusable(f"it lies at {metres:g} m ({name}), not at the {usual:g} m of {variable_id}; leave it out")
