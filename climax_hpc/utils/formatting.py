"""Sizes as people read them; lengths of time as whole steps."""


def readable_size(nbytes: float) -> str:
    """Bytes in the largest decimal unit that they fill, three digits: `1.37 GB`."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= factor:
            return f"{nbytes / factor:.3g} {unit}"
    return f"{nbytes:.0f} B"


def whole_steps(hours: float, step_hours: float) -> int | None:
    """How many steps make up a length of time, at least one; None where no whole number does."""
    steps = round(hours / step_hours)
    return steps if steps >= 1 and abs(steps * step_hours - hours) <= 1e-6 else None
