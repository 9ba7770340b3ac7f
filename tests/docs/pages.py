"""The pages of the documentation as text: files, headings, links and code blocks."""

import importlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^(?P<indent> *)(?P<marks>`{3,})(?P<info>.*)$")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced code block."""

    language: str
    title: str
    """What the reader sees above it; blocks with a title are not run."""
    line: int
    text: str


def reference() -> ModuleType:
    """`docs/tools/reference.py`, which writes the reference pages."""
    folder = str(DOCS / "tools")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("reference")
    finally:
        sys.path.remove(folder)


@cache
def generated_pages() -> dict[Path, str]:
    """Pages that exist only on the site -> their Markdown."""
    return {DOCS / path: text for path, text in reference().pages().items()}


@cache
def site_pages() -> tuple[Path, ...]:
    """The pages under docs/."""
    return tuple(sorted(DOCS.rglob("*.md")))


@cache
def all_pages() -> tuple[Path, ...]:
    """Every page that a reader may land on."""
    beside_code = [*ROOT.glob("kernels/*/README.md"), *ROOT.glob("data_prep/sample/README.md")]
    top = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "benchmarks/README.md"]
    return (*(page for page in top if page.is_file()), *site_pages(), *sorted(beside_code))


def is_history(page: Path) -> bool:
    """Decisions, the log and the changelog: prose that names the keys and variables of its time."""
    return page.name in ("CHANGELOG.md", "log.md") or page.parent.name == "adr"


def name(page: Path) -> str:
    """A page's path in the repository, for messages and test ids."""
    return str(page.relative_to(ROOT))


def text_of(page: Path) -> str:
    """The Markdown of a page, generated ones too."""
    return page.read_text(encoding="utf-8") if page.is_file() else generated_pages()[page]


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order, without their indentation."""
    lines = text.split("\n")
    number = 0
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        number += 1
        if fence is None:
            continue
        first = number
        while lines[number].strip() != fence["marks"]:
            number += 1
        indent = len(fence["indent"])
        title = re.search(r'title="([^"]*)"', fence["info"])
        yield Block(
            language=fence["info"].split(" ")[0], title=title[1] if title else "", line=first,
            text="\n".join(line[indent:] for line in lines[first:number]),
        )  # fmt: skip
        number += 1


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    kept: list[str] = []
    marks = ""
    for line in text.split("\n"):
        fence = _FENCE.match(line)
        if marks:
            marks = "" if line.strip() == marks else marks
        elif fence:
            marks = fence["marks"]
        else:
            kept.append(line)
    return "\n".join(kept)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as MkDocs makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.*)$", prose(text), re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)).strip().lower()
        base = anchor = re.sub(r"[-\s]+", "-", plain)
        count = 0
        while anchor in found:
            count += 1
            anchor = f"{base}_{count}"
        found.add(anchor)
    return found
