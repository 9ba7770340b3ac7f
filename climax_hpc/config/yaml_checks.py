"""Refuses YAML that PyYAML reads differently from what it says: repeated keys, YAML 1.1 numbers and truth words."""

import re
from pathlib import Path

import yaml

from climax_hpc.errors import UserError

_LARGEST_FILE, _MOST_ALIASES = 1 << 20, 100
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
    try:
        size = path.stat().st_size
        if size > _LARGEST_FILE:
            raise UserError(f"{path}: is not a config ({size} bytes; at most {_LARGEST_FILE} are read)")
        text = path.read_text(encoding="utf-8")
        aliases = sum(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, Loader=yaml.SafeLoader))
        if aliases > _MOST_ALIASES:
            raise UserError(f"{path}: has {aliases} YAML aliases; at most {_MOST_ALIASES} are read")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: is not YAML ({' '.join(str(error).split())[:200]})") from None
    if root is not None:
        _check_node(root, path, [])


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
    elif isinstance(node, yaml.ScalarNode) and node.style is None:
        for pattern, reason in _SURPRISES:
            if pattern.fullmatch(node.value):
                where = f" of {'.'.join(keys)!r}" if keys else ""
                raise UserError(f"{path}, line {node.start_mark.line + 1}: {node.value!r}{where}: {reason}")
