"""The one check of names that files bring along, before they become part of a path: no name leads out of its folder."""

import re
from typing import Annotated

from pydantic import AfterValidator

from climax_hpc.errors import printable

LONGEST_NAME = 200
"""Characters; a file system allows 255, and packed files add two dates."""
_LONGEST_PART, _MOST_PARTS = 255, 8
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
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
