"""The type of config keys that hold a path; `~` at its start becomes the home folder, wherever the key stands."""

from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from os.path import expanduser
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from climax_hpc.errors import UserError

ConfigPath = Annotated[str, "path"]
"""Text that is a path. Give every key of a config that holds one this type, also in lists and maps."""
Config = TypeVar("Config")


def with_expanded_paths(config: Config) -> Config:
    """The same config, `~` expanded in all keys of type `ConfigPath`.

    Raises:
        UserError: `~name` of a user who does not exist; names the key.
    """
    return _of_dataclass(config, "")


def check_outside(output: str, inputs: Iterable[str]) -> None:
    """Refuse an output that is an input, or lies in one: it would replace a file there, or be read the next time.

    Raises:
        UserError: names both paths.
    """
    place = Path(output).expanduser().resolve()
    for given in (path for path in inputs if "://" not in path):
        if place.is_relative_to(Path(given).expanduser().resolve()):
            raise UserError(f"output: {output} is, or lies in, the input {given}; choose another output")


def _of_dataclass(config: Any, prefix: str) -> Any:
    hints = get_type_hints(type(config), include_extras=True)
    old = {entry.name: getattr(config, entry.name) for entry in fields(config)}
    new = {name: _expanded(value, hints[name], prefix + name) for name, value in old.items()}
    changed = {name: value for name, value in new.items() if value != old[name]}
    return replace(config, **changed) if changed else config


def _expanded(value: Any, hint: Any, key: str) -> Any:
    """A value of the given type, with the paths in it expanded."""
    inner = get_args(hint)
    if hint == ConfigPath and isinstance(value, str):
        path = expanduser(value)
        if path.startswith("~"):
            raise UserError(f"{key}: {value}: there is no user {path[1:].split('/')[0]!r}; write the path in full")
        return path
    if is_dataclass(value):
        return _of_dataclass(value, f"{key}.")
    if get_origin(hint) in (Union, UnionType):
        for one in inner:
            value = _expanded(value, one, key)
    elif isinstance(value, dict) and len(inner) == 2:
        return {name: _expanded(one, inner[1], f"{key}.{name}") for name, one in value.items()}
    elif isinstance(value, list | tuple) and inner:
        return type(value)(_expanded(one, inner[0], key) for one in value)
    return value
