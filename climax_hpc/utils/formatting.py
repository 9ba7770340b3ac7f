"""Sizes, scores and units as text; lengths of time as whole steps."""

import re

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def readable_size(nbytes: float) -> str:
    """Bytes with three digits in the largest decimal unit that is not above them: `1.37 GB`."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= factor:
            return f"{nbytes / factor:.3g} {unit}"
    return f"{nbytes:.0f} B"


def whole_steps(hours: float, step_hours: float) -> int | None:
    """Number of steps in a length of time, at least one; None where it is not a whole number."""
    steps = round(hours / step_hours)
    return steps if steps >= 1 and abs(steps * step_hours - hours) <= 1e-6 else None


def format_score(value: float | None) -> str:
    """A score with four significant digits, without an exponent between 0.001 and 100 000; a dash for None."""
    if value is None:
        return "–"
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.3e}"
    return f"{value:#.4g}" if abs(value) < 1000 else f"{value:.0f}"


def pretty_units(units: str) -> str:
    """CF units with raised exponents: `m2 s-2` as m² s⁻²."""
    return re.sub(r"(?<=[a-zA-Z])-?\d+", lambda found: raised(found.group()), units)


def raised(exponent: str) -> str:
    """Digits and minus sign as an exponent: `-2` as ⁻²."""
    return exponent.replace("−", "-").translate(_RAISED)


def counted(number: int, one: str, more: str) -> str:
    """A number with its noun, such as "1 node" or "4 nodes"."""
    return f"{number} {one if number == 1 else more}"
