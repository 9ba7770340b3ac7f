"""Quantities as people read them."""


def readable_size(nbytes: float) -> str:
    """Bytes in the largest decimal unit that they fill, three digits: `1.37 GB`."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= factor:
            return f"{nbytes / factor:.3g} {unit}"
    return f"{nbytes:.0f} B"
