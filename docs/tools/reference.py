"""Writes the reference pages from the code: every verb's help, every config key, the variables, the shipped configs.

`python docs/tools/reference.py FOLDER` writes them as files; `make docs` takes them from `pages()` without writing.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse_from_object

from climax_hpc.cli import SUBCOMMANDS
from climax_hpc.distributed.signals import EXIT_RANK_LOST, EXIT_REQUEUE
from climax_hpc.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_INTERRUPTED
from climax_hpc.fields.variables import REGISTRY, SOLAR
from climax_hpc.utils.formatting import pretty_units
from climax_hpc.utils.references import load
from reference_tables import tables_page

FOLDER = "reference"
_LONG_LIST = 10
_BRACKET = re.compile(r"`[^`]*`|[][]")  # brackets outside of code are no links
_PAGE = re.compile(r"\bdocs/([\w/-]+)\.md")


@dataclass(frozen=True)
class Key:
    """One config key as the command line takes it."""

    name: str
    """Dotted, such as `data.period`."""
    type: str
    default: str | None
    """As YAML; None where the key must be given."""
    text: str


def config_keys(config_class: type[Any], prefix: str = "", default: Any = MISSING) -> Iterator[Key]:
    """All keys of a config dataclass, sections included, in the order of the class."""
    hints = get_type_hints(config_class)
    texts = _attribute_docstrings(config_class)
    for entry in fields(config_class):
        value = getattr(default, entry.name) if is_dataclass(default) else _default(entry)
        hint = hints[entry.name]
        if is_dataclass(hint):
            yield from config_keys(hint, f"{prefix}{entry.name}.", value)  # type: ignore[arg-type]
        else:
            shown = None if value is MISSING else _yaml(value)
            yield Key(prefix + entry.name, _type(hint), shown, texts.get(entry.name, ""))


def pages() -> dict[str, str]:
    """Path below docs/ -> Markdown."""
    made = {f"{FOLDER}/cli/index.md": _verbs_page(), f"{FOLDER}/variables.md": _variables_page()}
    made[f"{FOLDER}/configs.md"] = _configs_page()
    made[f"{FOLDER}/tables.md"] = tables_page()
    for name in SUBCOMMANDS:
        made[f"{FOLDER}/cli/{page_name(name)}.md"] = _verb_page(name)
    return made


def page_name(verb: str) -> str:
    """`bench kernels` -> `bench-kernels`."""
    return verb.replace(" ", "-")


def _verbs_page() -> str:
    groups: dict[str, list[str]] = {}
    for name, command in SUBCOMMANDS.items():
        groups.setdefault(command.group, []).append(f"| [`{name}`]({page_name(name)}.md) | {command.help} |")
    head = "| `climax-hpc …` | what it does |\n|---|---|"
    tables = "\n\n".join(f"## {group}\n\n{head}\n" + "\n".join(rows) for group, rows in groups.items())
    return (
        "# Command line\n\n"
        "Every command has the form `climax-hpc COMMAND [--config NAME|FILE] [--dotted.key VALUE]`.\n"
        "`--config` takes a YAML file or the name of a [shipped config](../configs.md); dotted keys override it.\n"
        "`~` at the start of a path is the home folder, in every key.\n"
        "`--print_config` prints all keys with their values, `--help` explains them.\n"
        "An unknown key is refused with the nearest known one.\n\n"
        f"{tables}\n\n"
        "## Exit status\n\n| status | meaning |\n|---|---|\n"
        f"| 0 | finished |\n| {EXIT_FAILED} | the system refused something (see "
        "[outputs](../../guides/outputs.md)), or an error of the program, with its traceback |\n"
        f"| {EXIT_BAD_INPUT} | bad input: one line says what is wrong, where, and how to fix it |\n"
        f"| {EXIT_REQUEUE} | stopped by a signal after writing a checkpoint: start the command again to resume |\n"
        f"| {EXIT_RANK_LOST} | a rank hung or was lost; the newest checkpoint is intact: start the command again |\n"
        f"| {EXIT_INTERRUPTED} | interrupted by Ctrl-C |\n"
    )


def _verb_page(name: str) -> str:
    verb = SUBCOMMANDS[name]
    config = load(verb.config)
    keys = list(config_keys(config))
    words = "".join(f" [{key.upper()}]" for key in verb.positional)
    sections: dict[str, list[Key]] = {}
    for key in keys:
        sections.setdefault(key.name.rpartition(".")[0], []).append(key)
    parts = [
        f"# climax-hpc {name}\n",
        f"{verb.help[0].upper()}{verb.help[1:]}.\n",
        f"```text\nclimax-hpc {name}{words} [--config NAME|FILE] [--dotted.key VALUE] [--print_config] [--help]\n```\n",
    ]
    if verb.positional:
        flags = " ".join(f"`--{key}`" for key in verb.positional)
        parts.append(f"Words directly after the command, without a flag, stand for {flags}.\n")
    if not keys:
        parts.append("This command has no keys.\n")
    for section, members in sections.items():
        parts.append(f"## {f'Section `{section}`' if section else 'Keys'}\n")
        parts.append("| key | default | meaning |\n|---|---|---|")
        parts.extend(_row(key) for key in members)
        parts.append("")
    return "\n".join(parts)


def _row(key: Key) -> str:
    default = "required" if key.default is None else f"`{key.default}`"
    kind = key.type.replace("|", "\\|")
    plain = _BRACKET.sub(lambda match: match[0] if match[0].startswith("`") else f"\\{match[0]}", key.text)
    text = _PAGE.sub(r"[\1](../../\1.md)", " ".join(plain.split()).replace("|", "\\|"))
    default = default.replace("|", "\\|")
    return f"| `{key.name}`<br>{kind} | {default} | {text} |"


def _variables_page() -> str:
    rows = "\n".join(
        f"| `{v.name}` | {v.short_name} | {v.cmip6 or ''} | {v.level_hpa or ''} | {pretty_units(v.units)} "
        f"| {v.standard_name} |"
        for v in (*REGISTRY.values(), *SOLAR.values())
    )
    return (
        "# Variables\n\nThe registry of `climax_hpc/fields/variables.py`; `climax-hpc variables` prints it too.\n"
        "The first 48 are those of ClimaX, in the order of its checkpoints. The last are computed inputs\n"
        "([Training](../guides/training.md)).\n\n"
        f"| name | short | CMIP6 | level [hPa] | units | CF standard name |\n|---|---|---|---|---|---|\n{rows}\n"
    )


def _configs_page() -> str:
    parts = [
        "# Shipped configs\n",
        "`--config NAME` takes any of these; `--config NAME --print_config` prints one with every key.\n",
    ]
    folder = files("climax_hpc.configs")
    for name in sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".yaml")):
        text = (folder / name).read_text(encoding="utf-8")
        parts.append(f"## {name.removesuffix('.yaml')}\n\n```yaml\n{text.rstrip()}\n```\n")
    return "\n".join(parts)


def _attribute_docstrings(config_class: type[Any]) -> dict[str, str]:
    """Field -> the string under it, inherited ones included."""
    found: dict[str, str] = {}
    for base in reversed(config_class.__mro__[:-1]):
        for entry in parse_from_object(base).params:
            found[entry.arg_name] = entry.description or ""
    return found


def _default(entry: Field[Any]) -> Any:
    if entry.default is not MISSING:
        return entry.default
    return MISSING if entry.default_factory is MISSING else entry.default_factory()


def _yaml(value: Any) -> str:
    if isinstance(value, list | tuple):
        inner = [_yaml(one) for one in value]
        if len(inner) > _LONG_LIST:
            inner = [inner[0], f"… {len(inner) - 2} more …", inner[-1]]
        return "[" + ", ".join(inner) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(one)}" for key, one in value.items()) + "}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return '""' if value == "" else str(value)


def _type(hint: Any) -> str:
    """`str | None` as "str or null", Literal["a", "b"] as its choices."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is NoneType:
        return "null"
    if origin is Literal:
        return " or ".join(f"`{one}`" for one in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_type(one) for one in arguments)
    if origin is tuple:
        inner = list(dict.fromkeys(_type(one) for one in arguments if one is not Ellipsis))
        return f"list of {'' if Ellipsis in arguments else f'{len(arguments)} '}{' or '.join(inner)}"
    if origin is not None and arguments and issubclass(origin, dict):
        return f"map of {_type(arguments[0])} to {_type(arguments[1])}"
    if origin is not None and arguments:
        return f"list of {_type(arguments[0])}"
    return getattr(hint, "__name__", str(hint))


if __name__ == "__main__":
    for path, text in pages().items():
        target = Path(sys.argv[1]) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
