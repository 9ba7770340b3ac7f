"""Bounds of the numbers in a config, stated beside their fields and checked before anything is computed from them."""

from collections.abc import Iterator, Mapping
from dataclasses import field, fields, is_dataclass
from typing import Any

from climax_hpc.errors import UserError

_KEY = "bounds"
_SMALLEST, _LARGEST = 1e-38, 1e9  # 1e-38: the smallest number of single precision
_LONG = 10**40
LONGEST_HOURS = 876_600.0
"""100 years."""


def bounded(default: Any, most: float, least: float = _SMALLEST) -> Any:
    """A dataclass field whose numbers have at most this size, and at least that one unless they are 0.

    `default`: a value, or `list` or `dict` for an empty one.
    """
    metadata = {_KEY: (least, most)}
    return (
        field(default_factory=default, metadata=metadata)
        if default in (list, dict)
        else field(default=default, metadata=metadata)
    )


def hours(default: Any) -> Any:
    """A dataclass field that holds lengths of time in hours."""
    return bounded(default, LONGEST_HOURS, 1e-3)


def check_numbers(config_class: type, settings: Mapping[str, Any], prefix: str = "") -> None:
    """Check every number of a config, also in lists, maps and sections; fields without `bounded` have wide bounds.

    Raises:
        UserError: not a finite number, or out of bounds; names the key.
    """
    for key in fields(config_class):
        value = settings.get(key.name)
        if isinstance(key.type, type) and is_dataclass(key.type) and isinstance(value, Mapping):
            check_numbers(key.type, value, f"{prefix}{key.name}.")
            continue
        least, most = key.metadata.get(_KEY, (_SMALLEST, _LARGEST))
        for number in _numbers(value):
            if number != 0 and not least <= abs(number) <= most:
                plain = least == _SMALLEST and abs(number) > most
                size = f"at most {most:g}" if plain else f"0, or {least:g} to {most:g},"
                raise UserError(f"{prefix}{key.name} = {_text(number)}: out of bounds, {size} in size")


def _text(number: float) -> str:
    if isinstance(number, float) or abs(number) < _LONG:
        return f"{number:g}" if isinstance(number, float) else str(number)
    return f"a number of {number.bit_length()} bits"


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, list | tuple | Mapping):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers(entry)
