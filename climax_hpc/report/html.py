"""HTML of a report: the document, and its sections, figures, tables and collapsed parts.

Plain text is escaped here; arguments that are HTML must be escaped by the caller.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any


def document(title: str, subtitle: str, sections: Iterable[str]) -> str:
    """The page; `title` and `subtitle` are plain text, `sections` HTML. Empty sections are left out."""
    template = Template(files("climax_hpc.report").joinpath("page.html").read_text(encoding="utf-8"))
    body = "\n".join(section for section in sections if section)
    return template.substitute(title=escape(title), subtitle=escape(subtitle), sections=body)


def section(heading: str, *parts: str) -> str:
    """A section of the page, of HTML parts; empty where all parts are empty."""
    body = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{escape(heading)}</h2>\n{body}\n</section>" if body else ""


def figure(svg: str, caption: str) -> str:
    """An inline SVG with its caption."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def details(title: str, body: str) -> str:
    """A collapsed section."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def facts(rows: Mapping[str, Any]) -> str:
    """Names and values as a two-column table."""
    body = "".join(f'<tr><th scope="row">{escape(k)}</th><td>{escape(str(v))}</td></tr>' for k, v in rows.items())
    return f'<div class="scroll"><table class="facts"><tbody>{body}</tbody></table></div>'


def table(header: Sequence[str], bodies: Iterable[str]) -> str:
    """A table of scores; `bodies` are the <tr> elements of each <tbody>."""
    heads = "".join(f'<th scope="col">{escape(text)}</th>' for text in header)
    body = "".join(f"<tbody>{rows}</tbody>" for rows in bodies)
    return f'<div class="scroll"><table class="scores"><thead><tr>{heads}</tr></thead>{body}</table></div>'
