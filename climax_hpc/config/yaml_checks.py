"""Refuses YAML that PyYAML reads differently from what it says: repeated keys, YAML 1.1 numbers and truth words."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from climax_hpc.errors import UserError
from climax_hpc.utils.files import check_is_plain_file

_LARGEST_FILE, _MOST_ALIASES, _MOST_VALUES, _DEEPEST = 1 << 20, 100, 5000, 50
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML has it
_SURPRISES = (
    (re.compile(r"[-+]?0[0-9_]+"), "YAML reads it as an octal number: write it without the leading 0, or quote it"),
    (re.compile(r"[-+]?[0-9]+(:[0-5]?[0-9])+(\.[0-9]*)?"), "YAML reads it as a number in base 60: quote it"),
    (re.compile(r"(?i)yes|no|on|off"), "YAML reads it as true or false: write true or false, or quote it"),
)


def check_yaml(path: Path) -> None:
    """Check a config file before it is parsed.

    Raises:
        UserError: not YAML, too large, a key that occurs twice, or a value that YAML reads differently; names the line.
    """
    check_is_plain_file(path, "a config in YAML", _LARGEST_FILE)
    try:
        text = path.read_text(encoding="utf-8")
        _check_size(text, path)
        root = yaml.compose(text, Loader=_Loader)
        if isinstance(root, yaml.MappingNode):
            _refuse_growth(root, path)
            _check_node(root, path, [])
        elif root is not None:
            raise UserError(f"{path}: holds no settings; a config has lines such as `run_folder: runs/mine`")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: is not YAML ({' '.join(str(error).split())[:200]})") from None


def read_settings(path: Path) -> dict[Any, Any]:
    """Keys and values of a config file that `check_yaml` has accepted."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader) or {}


def check_value(text: str, key: str) -> None:
    """Check a value on the command line before it is parsed; what is not YAML is left to the parser.

    Raises:
        UserError: it is nested deeply or has very many parts.
    """
    with suppress(yaml.YAMLError):
        _check_size(text, key)


def _check_size(text: str, where: Path | str) -> None:
    """Refuse what is far from a config, before a tree is made of it."""
    aliases = depth = 0
    values: list[str] = []
    for event in yaml.parse(text, Loader=_Loader):
        aliases += isinstance(event, yaml.AliasEvent)
        if isinstance(event, yaml.ScalarEvent):
            values.append(event.value)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise UserError(f"{where}: is nested more than {_DEEPEST} deep, which no config is")
    if aliases > _MOST_ALIASES:
        raise UserError(f"{where}: has {aliases} YAML aliases; at most {_MOST_ALIASES} are read")
    if len(values) > _MOST_VALUES:
        some = ", ".join(value[:40] for value in values[:4])
        raise UserError(f"{where}: has {len(values)} keys and values ({some}, …); a config has at most {_MOST_VALUES}")


def _refuse_growth(root: yaml.Node, path: Path) -> None:
    """Refuse aliases of aliases that unfold to far more than the file holds; an alias inside itself never ends."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
            sizes[id(node)] = 1 + (0 if isinstance(node, yaml.ScalarNode) else sum(map(size, parts)))
        return sizes[id(node)]

    if size(root) > 2 * _MOST_VALUES:
        raise UserError(f"{path}: its aliases unfold to {size(root)} keys and values; write out what they stand for")


def _check_node(node: yaml.Node, path: Path, keys: list[str]) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            name = ".".join([*keys, str(key.value)])
            if key.value in seen:
                raise UserError(f"{path}, line {line}: key {name!r} occurs twice (first in line {seen[key.value]})")
            seen[key.value] = line
            _check_node(key, path, keys)
            _check_node(value, path, [*keys, str(key.value)])
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_node(item, path, keys)
    elif isinstance(node, yaml.ScalarNode) and not node.style:  # None, or "" from the C parser
        for pattern, reason in _SURPRISES:
            if pattern.fullmatch(node.value):
                where = f" of {'.'.join(keys)!r}" if keys else ""
                raise UserError(f"{path}, line {node.start_mark.line + 1}: {node.value!r}{where}: {reason}")
