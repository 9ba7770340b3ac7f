"""Standard names that contradict the name of their variable are refused, such as `tas` that is called `air_pressure`.

Files without a standard name are common, and so are old and loose spellings: only what clearly names another quantity
is refused.
"""

import re
from typing import Any

from climax_hpc.data_prep.sources.coordinates import attribute
from climax_hpc.errors import UserError
from climax_hpc.fields.variables import REGISTRY, channels_of

# Variable id -> words of which a standard name has one, and words that it has not.
_TEMPERATURE = ({"temperature"}, {"dew", "potential", "soil", "canopy", "brightness", "virtual", "wet", "bulb"})
_EASTWARD = ({"eastward", "zonal", "x", "u"}, {"stress", "water", "flux"})
_NORTHWARD = ({"northward", "meridional", "y", "v"}, {"stress", "water", "flux"})
_RAIN = ({"precipitation", "precip", "prec", "rainfall", "rain"}, {"convective", "stratiform"})
_WORDS: dict[str, tuple[set[str], set[str]]] = {
    "tas": _TEMPERATURE, "ta": _TEMPERATURE, "ts": _TEMPERATURE, "tos": ({"temperature"}, {"air", "soil"}),
    "uas": _EASTWARD, "ua": _EASTWARD, "vas": _NORTHWARD, "va": _NORTHWARD, "pr": _RAIN, "pr90": _RAIN,
    "zg": ({"geopotential", "height", "heights"}, {"thickness"}),
    "hur": ({"relative"}, set()), "hus": ({"specific"}, set()),
    "psl": ({"pressure"}, {"vapor", "partial"}), "ps": ({"pressure"}, {"sea", "vapor", "partial"}),
    "sftlf": ({"land"}, {"ice"}),
    "orog": ({"altitude", "height", "elevation", "topography", "orography", "geopotential"}, {"sea", "tree"}),
}  # fmt: skip
_NEVER = {"tendency", "change", "square", "product", "derivative", "integral", "difference", "error", "flag"}
"""Words of what is derived from a quantity."""
_ALSO = {
    "orog": {"geopotential"},  # ERA5
    "tos": {"surface_temperature"},  # before CF 1.8
    "pr": {"convective_precipitation_rate"},  # CHIRPS, which is all precipitation
    "hus": {"mass_fraction_of_water_vapor_in_air"},  # what it is by definition
    "sftlf": {"area_fraction"},  # CF, with the kind of area as a coordinate
}
"""Standard names that files in use have, although their words are those of another quantity."""
_SEA_LEVEL = re.compile(r"_above(_mean)?_sea_level$")  # where a height starts, not what is measured
_ONE_WORD = {"altitude", "depth", "height", "latitude", "longitude", "time"}
_FORM = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)+")  # of CF; a single word may be anything


def refuse_other_quantity(variable: Any, variable_id: str, what: str) -> None:
    """Refuse a variable whose standard name is that of another quantity than its name; `what`: for the message.

    Raises:
        UserError: names both.
    """
    found = attribute(variable, "standard_name")
    name = "_".join(found.lower().split())
    if variable_id not in _WORDS or not _is_other(name, variable_id):
        return
    expected = channels_of(variable_id)[0].standard_name
    raise UserError(
        f"{what}: its standard_name is {found!r}, but a variable of this name is {expected!r}: rename the variable, or "
        "correct the attribute (ncatted)"
    )


def _is_other(name: str, variable_id: str) -> bool:
    own = {variable.standard_name for variable in channels_of(variable_id)} | _ALSO.get(variable_id, set())
    known = {variable.standard_name for variable in REGISTRY.values()} - {""} | _ONE_WORD
    if name in own:
        return False
    words, (one_of, none_of) = set(_SEA_LEVEL.sub("", name).split("_")), _WORDS[variable_id]
    if name in known and not (name in _ONE_WORD and words & one_of):
        return True
    return _FORM.fullmatch(name) is not None and (not words & one_of or bool(words & (none_of | _NEVER)))
