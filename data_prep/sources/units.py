"""Unit arithmetic for input files: spellings found in the wild, and only the units that atmospheric data use.

Unit arithmetic alone decides by dimension and accepts nonsense: it reads `degrees C` as degrees of arc times kelvin and
`gr/kg` as grains. Here a spelling is looked up first, and a result with any unit outside `UNITS` is refused.
"""

import re
from functools import lru_cache
from math import isfinite

from climax_hpc.utils.names import shown

_LONGEST, _MOST_BRACKETS = 80, 4
_POWER = re.compile(r"\*\*|\^")
_RAISED, _LOWERED = re.compile(r"[⁻⁰¹²³⁴-⁹]+"), str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_CHARACTERS = {*map(chr, range(32, 127)), *"\t\n\r°º℃µμ·−⁻⁰¹²³⁴⁵⁶⁷⁸⁹"}
_EXPONENT = re.compile(r"\s*\(?\s*[-+]?\d{1,2}(?![\w.])")
_LONG_NUMBER = re.compile(r"[A-Za-z][-+]?\d{3}|\d{16}")  # CF puts an exponent directly behind its unit: m-2
UNITS = frozenset(
    {
        "kelvin", "degree_Celsius", "degree_Fahrenheit", "meter", "second", "minute", "hour", "day", "year", "gram",
        "metric_ton", "pascal", "bar", "percent", "knot",
    }
)  # fmt: skip
"""Names of units, without prefix, that a spelling may contain (pint's names)."""

_CELSIUS = ("c", "celsius", "deg c", "deg celsius", "degree c", "degrees c", "degree celsius", "degrees celsius",
            "degree_c", "degrees_c", "degc", "degreec", "degreesc", "oc", "° c", "°c", "ºc", "deg_c", "℃",
            "deg. c", "deg.c", "celcius", "centigrade", "degrees centigrade")  # fmt: skip
_KELVIN = ("k", "kelvin", "kelvins", "deg k", "degree k", "degrees k", "degree kelvin", "degrees kelvin", "degk",
           "degree_k", "degrees_k", "deg_k", "°k", "ºk",
           "degree_kelvin", "degreesk", "k (kelvin)", "kelvin (k)")  # fmt: skip
SPELLINGS = {
    **dict.fromkeys(_CELSIUS, "degC"),
    **dict.fromkeys(_KELVIN, "K"),
    **dict.fromkeys(("deg f", "degree f", "degrees f", "fahrenheit", "degree fahrenheit", "degf"), "degF"),
    **dict.fromkeys(("(0 - 1)", "0 - 1", "(0-1)", "0-1", "fraction", "-", "~", "none", "unitless"), "1"),
    **dict.fromkeys(("pct", "percentage", "percent", "per cent"), "%"),
    **dict.fromkeys(("mb", "mbar", "mbars", "millibar", "millibars", "hpa"), "hPa"),
    **dict.fromkeys(("pa", "pascal", "pascals"), "Pa"),
    **dict.fromkeys(("gr/kg", "gr kg-1", "gr kg**-1", "gr kg^-1", "g/kg", "gm/kg"), "g kg-1"),
    **dict.fromkeys(("m of water equivalent", "m of water", "m w.e."), "m"),
    **dict.fromkeys(("gpm", "m gpm", "geopotential meters", "geopotential metres"), "m"),
    **dict.fromkeys(("meters/second", "metres/second", "m/sec", "meters per second", "metres per second"), "m s-1"),
}
"""Spelling in lower case with single blanks -> spelling that unit arithmetic reads as meant."""


class UnknownUnits(Exception):
    """Units that cannot be converted; the message says why."""


@lru_cache(maxsize=256)
def affine(units: str, target: str) -> tuple[float, float]:
    """(scale, offset): value in `target` = scale · value in `units` + offset.

    Raises:
        UnknownUnits: `units` is unknown, has another dimension, or contains a unit that atmospheric data do not use.
    """
    if reason := _why_unbounded(units):
        raise UnknownUnits(reason)
    from cf_xarray.units import units as registry  # slow to import, and ranks that only write never need it

    spelt = spelling(units)
    try:
        parsed = registry.parse_units(spelt)
        roots = {registry.parse_unit_name(name)[0][1] for name in parsed._units}
        if strange := roots - UNITS:
            raise UnknownUnits(f"{shown(units)!r} would mean {', '.join(sorted(strange))}")
        zero, one = (registry.Quantity(value, spelt).to(target).magnitude for value in (0.0, 1.0))
    except UnknownUnits:
        raise
    except Exception as error:  # pint raises several kinds; all mean that the units do not convert
        raise UnknownUnits(" ".join(str(error).split())[:200]) from error
    if not (isfinite(zero) and isfinite(one - zero) and one != zero):
        raise UnknownUnits(f"{shown(units)!r} scales by {one - zero}")
    return float(one - zero), float(zero)


def same_units(one: str, other: str) -> bool:
    """True where both spellings mean the same unit, such as `m/s` and `m s-1`.

    Args:
        one: a unit that `affine` knows; of others only another spelling of the same text is accepted.
        other: any text.
    """
    if one == other:
        return True
    if _why_unbounded(other):
        return False
    if spelling(one) == spelling(other):
        return True
    try:
        return affine(one, spelling(other)) == (1.0, 0.0)
    except UnknownUnits:
        return False


def _why_unbounded(units: str) -> str:
    """Why a text is not to be computed, which unit arithmetic does: `9**9**9**9` would never end; empty if it is."""
    if len(units) > _LONGEST:
        return f"{shown(units)!r} has {len(units)} characters; units have at most {_LONGEST}"
    if strange := set(units) - _CHARACTERS:
        return f"{shown(units)!r} has {min(strange)!r}, which units do not have"
    if units.count("(") > _MOST_BRACKETS:
        return f"{shown(units)!r} has more than {_MOST_BRACKETS} brackets"
    _, *powers = _POWER.split(_RAISED.sub(lambda found: f"**{found[0].translate(_LOWERED)}", units))
    for i, text in enumerate(powers):
        exponent = _EXPONENT.match(text)
        if exponent is None:
            return f"{shown(units)!r} has an exponent that is no whole number of one or two digits"
        if i < len(powers) - 1 and not text[exponent.end() :].strip(" )"):
            return f"{shown(units)!r} has a power in an exponent"
    if _LONG_NUMBER.search(units):
        return f"{shown(units)!r} has a number of many digits"
    return ""


def spelling(units: str) -> str:
    """The spelling that unit arithmetic understands; blanks are collapsed, known spellings replaced."""
    single = " ".join(units.split())
    return SPELLINGS.get(single.lower(), single)
