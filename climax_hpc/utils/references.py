"""Objects named as "module:name", imported when they are needed."""

from importlib import import_module
from typing import Any


def load(reference: str) -> Any:
    """The object that "module:name" names."""
    module, name = reference.split(":")
    return getattr(import_module(module), name)
