"""The checks of names and text from outside: no name of a file leads out of its folder, no text breaks a line."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator

from climax_hpc.errors import UserError, printable

LONGEST_NAME = 200
"""Characters; a file system allows 255, and packed files add two dates."""
_LONGEST_PART, _MOST_PARTS = 255, 8
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_CONTROL, _NOT_UTF8 = re.compile(r"[\x00-\x1f\x7f]"), re.compile(r"[\ud800-\udfff]")
_RULE = "names consist of letters, digits, '.', '_' and '-', begin with a letter, digit or '_', and hold no '..'"


def why_no_name(text: str, longest: int = LONGEST_NAME) -> str:
    """Why a text is not a name, in one line; empty if it is one."""
    if len(text) > longest:
        return f"{shown(text)!r} has {len(text)} characters; a name has at most {longest}"
    if not _NAME.fullmatch(text) or ".." in text:
        return f"{shown(text)!r} is not a name: {_RULE}"
    return ""


def shown(text: str, longest: int = 80) -> str:
    """The beginning of a text from a file, on one line and without control characters."""
    line = printable(" ".join(text[: 2 * longest].split()))
    return line if len(line) <= longest and len(text) <= 2 * longest else line[:longest] + "…"


def _checked_name(text: str) -> str:
    if reason := why_no_name(text):
        raise ValueError(reason)
    return text


def _checked_path(text: str) -> str:
    parts = text.split("/")
    if len(parts) > _MOST_PARTS:
        raise ValueError(f"{shown(text)!r} lies more than {_MOST_PARTS} folders deep")
    for part in parts:
        if reason := why_no_name(part, _LONGEST_PART):
            raise ValueError(f"{shown(text)!r} is not a path inside this folder: {reason}")
    return text


Name = Annotated[str, AfterValidator(_checked_name)]
"""A name in a typed JSON file."""
RelativePath = Annotated[str, AfterValidator(_checked_path)]
"""A path in a typed JSON file: names with slashes between, inside the folder of the file."""


def check_text(value: Any, where: str) -> None:
    """Refuse text that cannot be a path, or be shown on one line, anywhere in nested settings.

    Raises:
        UserError: the text holds control characters, or is not UTF-8.
    """
    if isinstance(value, Mapping):
        for key, entry in value.items():
            check_text(key, where)
            check_text(entry, f"{where}, {key}")
    elif isinstance(value, list | tuple):
        for entry in value:
            check_text(entry, where)
    elif isinstance(value, str):
        check_utf8(value, where)
        if _CONTROL.search(value):
            raise UserError(f"{where}: {value[:200]!a} holds control characters; write it without them")


def check_utf8(text: str, where: str) -> None:
    """Refuse bytes that are not UTF-8, which Python keeps as surrogates.

    Raises:
        UserError: shows the text.
    """
    if _NOT_UTF8.search(text):
        raise UserError(f"{where}: {text[:200]!a} is not UTF-8; rename it, or make a link to it")
