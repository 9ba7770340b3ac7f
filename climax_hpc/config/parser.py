"""YAML file and dotted keys -> one frozen config dataclass; a mistake becomes one line with the nearest valid key."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, asdict, fields, is_dataclass
from difflib import get_close_matches
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from climax_hpc.config.paths import with_expanded_paths
from climax_hpc.config.renamed_keys import RENAMED_VALUES, new_name, new_value
from climax_hpc.config.yaml_checks import check_value, check_yaml, read_settings
from climax_hpc.errors import UserError
from climax_hpc.utils.bounds import check_numbers
from climax_hpc.utils.names import check_text, check_utf8

Config = TypeVar("Config")
# Messages of jsonargparse for an unknown key: in a file, in a section of a file, on the command line.
_UNKNOWN_KEY = (
    r"^Option '([^']+)' is not accepted",
    r"Group '([^']+)' does not accept option '([^']+)'",
    r"[Uu]nrecognized arguments: --([^\s=]+)",
)
_WRONG_VALUE = (
    r"Parser key \"([^\"]+)\": Expected an? (.+)\. Got value: (.*)",
    r"Parser key \"([^\"]+)\": Does not validate against any of the Union subtypes Subtypes: \[(.+)\] Errors: .* "
    r"Given value: (.*)",
)
_PATH_TYPE = re.compile(r"(typing\.)?Annotated\[(<class 'str'>|str),\s+'path'\]")
_NOT_KEYS = {"help", "config", "print_config"}
_RENAMED = " was renamed to "
_HELP = {"-h", "--help"}
_FROM_FILE = "from_file"
"""Class method of a config that takes the settings in a file of another command too, and returns its own."""
# Building a parser takes longer than parsing: the members of a sweep share one. One that has failed is not used again.
_PARSERS: dict[tuple[type, str, bool, str], "_Parser"] = {}


class UnknownKeys(UserError):
    """A file has keys that the config has not: it may be a config of another command."""

    def __init__(self, line: str, *, file: str, program: str, keys: Sequence[str], unknown: str) -> None:
        super().__init__(line)
        self.file, self.program = file, program
        self.keys = keys
        """All keys of the file, without those in its sections."""
        self.unknown = unknown


class _Parser(ArgumentParser):
    """A parser whose help calls paths by their name."""

    def format_help(self, *arguments: Any, **options: Any) -> str:
        return _PATH_TYPE.sub("path", super().format_help(*arguments, **options))


def nearest(name: str, choices: Iterable[str]) -> str:
    """`; did you mean …?` with the closest choices, or nothing."""
    near = get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def read_config(config_class: type[Config], program: str, arguments: Sequence[str], summary: str = "") -> Config:
    """Config of a command line; handles --help, which begins with the summary, and --print_config; both exit with 0.

    Raises:
        UserError: unknown key (names the nearest one), missing key, invalid value, unknown or unreadable file;
            `UnknownKeys` where the file may be that of another command.
    """
    kind = (config_class, program, not _HELP.isdisjoint(arguments), summary)
    parser = _PARSERS.pop(kind, None) or _make_parser(*kind)
    for argument in arguments:
        check_utf8(argument, "command line")
    try:
        resolved = _resolve_config(arguments, config_class)
        _refuse_unknown_sections(config_class, resolved, _keys(parser))
        namespace = parser.parse_args(resolved)
        del namespace["config"]
        check_text(namespace.as_dict(), "config")
        _refuse_renamed_values(namespace)
        _refuse_nulls(config_class, namespace.as_dict())
        check_numbers(config_class, namespace.as_dict())
        config = with_expanded_paths(config_class(**parser.instantiate(namespace).as_dict()))
    except (ArgumentError, UserError, TypeError, ValueError, yaml.YAMLError) as error:
        line = _line(error, parser, arguments)
        if _RENAMED not in line:
            _refuse_unknown_keys(line, config_class, program, arguments)
        raise UserError(line) from None
    _PARSERS[kind] = parser
    return config


def _make_parser(config_class: type, program: str, documented: bool, summary: str) -> _Parser:
    set_parsing_settings(docstring_parse_attribute_docstrings=documented)  # parses the source: slow
    parser = _Parser(prog=program, description=summary, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="A YAML file, or the name of a shipped config.")
    parser.add_class_arguments(config_class)
    return parser


def _refuse_nulls(config_class: type, settings: Mapping[str, Any], prefix: str = "") -> None:
    """Refuse null where the key has no such value; the parser takes it for every key that has a default."""
    for key in fields(config_class):
        value = settings.get(key.name)
        if isinstance(key.type, type) and is_dataclass(key.type) and isinstance(value, Mapping):
            _refuse_nulls(key.type, value, f"{prefix}{key.name}.")
        elif value is None and key.type is not Any and NoneType not in get_args(key.type):
            raise UserError(f"{prefix}{key.name}: null is not valid; leave the key out for its default")


def _line(error: Exception, parser: _Parser, arguments: Sequence[str]) -> str:
    """One line that says what is wrong with a config."""
    if isinstance(error, ArgumentError):
        return _explain(str(error), _keys(parser))
    if isinstance(error, UserError):
        return _with_place(str(error), _keys(parser), arguments)
    return f"invalid config: {error}"


def _refuse_unknown_keys(line: str, config_class: type, program: str, arguments: Sequence[str]) -> None:
    """Raise a more special error where a file has keys that the config has not."""
    for name in _values_of("config", arguments):
        keys: list[str] = []
        with suppress(UserError):  # cannot be read: `line` says so
            keys = [str(key) for key in _settings_of(config_class, _config_file(name))]
        if unknown := [key for key in keys if key not in keys_of(config_class)]:
            raise UnknownKeys(line, file=name, program=program, keys=keys, unknown=unknown[0])


def _values_of(key: str, arguments: Sequence[str]) -> Iterator[str]:
    """Values of a key on the command line, as `--key value` or `--key=value`."""
    for word, following in pairwise([*arguments, ""]):
        if word.partition("=")[0] == f"--{key}":
            yield word.partition("=")[2] or following


def _refuse_unknown_sections(config_class: type, arguments: Sequence[str], keys: Sequence[str]) -> None:
    """Refuse unknown sections without settings, in files; the parser says nothing of them."""
    for name in ["", *_sections(config_class)]:
        for file in _values_of(name or "config", arguments):
            if os.path.exists(file):
                _refuse_empty(read_settings(Path(file)), name, keys)


def _refuse_empty(settings: Any, section: str, keys: Sequence[str]) -> None:
    """Refuse mappings without values in `settings` of that section, unless one of the keys is meant."""
    for key, value in settings.items() if isinstance(settings, Mapping) else ():
        name = f"{section}.{key}" if section else str(key)
        is_section = any(other.startswith(f"{name}.") for other in keys)
        if not isinstance(value, Mapping) or (name in keys and not is_section):
            continue
        if not value and not is_section:
            raise UserError(_unknown_key(name, keys))
        _refuse_empty(value, name, keys)


def keys_of(config_class: type) -> set[str]:
    """Keys and sections of a config, without what is in the sections."""
    return {key.name for key in fields(config_class)}


def _with_place(message: str, keys: Sequence[str], arguments: Sequence[str]) -> str:
    """The message; if it names no key, with the file of the config before it."""
    words = set(re.findall(r"[\w.]+", message))
    if "--config" not in arguments[:-1] or words & set(keys):
        return message
    file = arguments[arguments.index("--config") + 1]
    return message if file in message else f"{file}: {message}"


def _refuse_renamed_values(settings: Namespace) -> None:
    """Refuse old values of keys that take any text; of other keys the parser has refused them already."""
    for key in RENAMED_VALUES:
        new = new_value(key, settings.get(key))
        if new:
            raise UserError(_renamed_value(key, settings[key], new))


def _renamed_value(key: str, old: str, new: str) -> str:
    return f"{key}: {old!r}{_RENAMED}{new!r}"


def shipped_configs() -> list[str]:
    """Names of the configs that are part of the package."""
    folder = files("climax_hpc.configs")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def to_dict(config: Any) -> dict[str, Any]:
    """A config as nested plain dicts and lists, ready for YAML or JSON."""
    return _plain(asdict(config))


def default_settings(config_class: type, prefix: str = "") -> dict[str, Any]:
    """Default of every key that has one, by dotted key; sections are opened."""
    found: dict[str, Any] = {}
    for key in fields(config_class):
        if isinstance(key.type, type) and is_dataclass(key.type):
            found |= default_settings(key.type, f"{prefix}{key.name}.")
        elif key.default is not MISSING:
            found[prefix + key.name] = _plain(key.default)
        elif key.default_factory is not MISSING:
            found[prefix + key.name] = _plain(key.default_factory())
    return found


def _sections(config_class: type) -> list[str]:
    return [key.name for key in fields(config_class) if isinstance(key.type, type) and is_dataclass(key.type)]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def _resolve_config(arguments: Sequence[str], config_class: type) -> list[str]:
    """The arguments with the files of configs checked, and the names of shipped ones replaced by their files.

    `--section FILE` reads a section from a file of its own. The files of a config that also reads those of another
    command are replaced by their content.
    """
    resolved, sections = [], _sections(config_class)
    for i, argument in enumerate(arguments):
        given = argument.startswith("--") and "=" in argument
        key, _, value = argument.partition("=") if given else (arguments[i - 1] if i else "", "", argument)
        if key == "--config":
            value = _config_file(value)
            if hasattr(config_class, _FROM_FILE):
                value = yaml.safe_dump(_settings_of(config_class, value))
        elif key.removeprefix("--") in sections and os.path.exists(value):
            check_yaml(Path(value))
        else:
            check_value(value, key.removeprefix("--"))
        resolved.append(f"{key}={value}" if given else value)
    return resolved


def _settings_of(config_class: type, file: str) -> dict[str, Any]:
    """The settings in a file, as the config takes them: `from_file` of a config translates those of another command."""
    settings = read_settings(Path(file))
    translate = getattr(config_class, _FROM_FILE, None)
    return translate(settings) if translate else settings


def _config_file(name: str) -> str:
    name = os.path.expanduser(name)
    if os.path.exists(name) and not (os.path.isdir(name) and name in shipped_configs()):
        check_yaml(Path(name))
        return name
    names = shipped_configs()
    if name in names:
        with as_file(files("climax_hpc.configs") / f"{name}.yaml") as path:
            return str(path)
    raise UserError(f"--config: there is no file {name!r} and no shipped config of that name{nearest(name, names)}")


def _keys(parser: ArgumentParser) -> list[str]:
    return [action.dest for action in parser._actions if action.dest not in _NOT_KEYS]


def _unknown_key(key: str, keys: Sequence[str]) -> str:
    new = new_name(key)
    if new in keys:
        return f"{key}{_RENAMED}{new}"
    near = nearest(key, keys) or nearest(key.rsplit(".", 1)[-1], [k.rsplit(".", 1)[-1] for k in keys])
    return f"unknown config key {key!r}{near or '; --help lists the keys'}"


def _explain(message: str, keys: list[str]) -> str:
    """One line from a message of jsonargparse: the nearest key to an unknown one, what was expected for a value."""
    for pattern in _UNKNOWN_KEY:
        unknown = re.search(pattern, message)
        if not unknown:
            continue
        return _unknown_key(".".join(unknown.groups()), keys)
    line = " ".join(message.split())
    for pattern in _WRONG_VALUE:
        wrong = re.search(pattern, line)
        if wrong:
            key, value = wrong[1], wrong[3]
            types = _readable(wrong[2])
            renamed = new_value(key, value)
            if renamed:
                return _renamed_value(key, value, renamed)
            return f"{key}: {value!r} is not valid, expected {types}; {_written(types, value)}--help explains the key"
    _, missing, words = line.partition("arguments are required: ")
    if missing:
        flags = " ".join(f"--{key} VALUE" for key in words.split(", "))
        return f"required: {words}; give {flags}, or a file with --config"
    start, found, words = message.partition("nrecognized arguments: ")
    return f"{start}{found}{words!r}; settings are given as --key VALUE" if found else line


def _written(types: str, value: str) -> str:
    """How a value of these types is written, where this is not plain; ends in a semicolon."""
    if types == "str":  # YAML takes 2001 for a number, and 2001-01-31 for a date
        return f'put it in quotes: "{value}"; '
    if types.startswith(("list", "tuple")):
        first = value.strip("[]").partition(",")[0].strip(" '\"")
        entry = f'"{first}"' if "str" in types else first
        return f"a list is written [{entry}, …]; "
    return "it is written {name: value}; " if types.startswith("dict") else ""


def _readable(types: str) -> str:
    """`typing.Literal['a', 'b']` as "one of 'a', 'b'", `<class 'int'>` as "int", NoneType as "null", paths as such."""
    types = _PATH_TYPE.sub("path", types)
    types = re.sub(r"<class '([^']+)'>", r"\1", types).replace("NoneType", "null")
    return re.sub(r"typing\.Literal\[([^\]]+)\]", r"one of \1", types)
