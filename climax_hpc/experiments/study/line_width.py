"""Fits generated Markdown to the line width of the documentation: prose is wrapped, wide tables become HTML."""

import re
import textwrap
from collections.abc import Sequence
from html import escape
from itertools import groupby

WIDTH = 98


def fit_width(page: str) -> str:
    """The page with no line beyond WIDTH, except for links and headings, which cannot be broken."""
    return "\n".join(_fit_block(list(lines)) for _, lines in groupby(page.split("\n"), key=_kind))


def _kind(line: str) -> str:
    if line.startswith("|"):
        return "table"
    return "as it is" if not line.strip() or line.startswith(("#", "![", "<")) else "prose"


def _fit_block(lines: Sequence[str]) -> str:
    if all(len(line) <= WIDTH for line in lines) or _kind(lines[0]) == "as it is":
        return "\n".join(lines)
    return _html_table(lines) if _kind(lines[0]) == "table" else "\n".join(_wrapped(lines))


def _wrapped(lines: Sequence[str]) -> list[str]:
    """Prose, each list item by itself."""
    items: list[str] = []
    for line in lines:
        if items and not re.match(r"[-*] ", line):
            items[-1] += f" {line.strip()}"
        else:
            items.append(line)
    wrapped: list[str] = []
    for item in items:
        indent = "  " if re.match(r"[-*] ", item) else ""
        options = {"break_long_words": False, "break_on_hyphens": False}
        wrapped += textwrap.wrap(item, WIDTH, subsequent_indent=indent, **options)  # type: ignore[arg-type]
    return wrapped


def _html_table(lines: Sequence[str]) -> str:
    """A Markdown table as HTML, whose rows may go over several lines."""
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    parts = ["<table>", "<thead>", *_row(rows[0], "th"), "</thead>", "<tbody>"]
    for row in rows[2:]:  # the second is the rule under the head
        parts += _row(row, "td")
    return "\n".join([*parts, "</tbody>", "</table>"])


def _row(cells: Sequence[str], tag: str) -> list[str]:
    inner = " ".join(f"<{tag}>{_bold(escape(cell, quote=False))}</{tag}>" for cell in cells)
    return textwrap.wrap(f"<tr>{inner}</tr>", WIDTH, break_long_words=False, break_on_hyphens=False)


def _bold(cell: str) -> str:
    return re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", cell)
