"""Every link, anchor and picture of the documentation exists; links elsewhere have the right form."""

import os
import re
from pathlib import Path

import pytest

from .pages import ROOT, all_pages, anchors, generated_pages, name, prose, site_pages, text_of

_LINK = re.compile(r"!?\[(?:[^][]|\[[^][]*\])*\]\((?P<target>[^)\s]+)\)")
_FOLDERS = ("climax_hpc", "data_prep", "kernels", "launch", "slurm", "tests", "docs", "benchmarks")
_PATH = re.compile(rf"(?<![\w./-])(?:{'|'.join(_FOLDERS)})/[\w./*-]+")
_NO_FILES = ("climax_hpc/shard", "climax_hpc/dataset")  # schemas of shards and manifests


def problems(page: Path, text: str) -> list[str]:
    """What is wrong with the links of a page."""
    found = []
    for match in _LINK.finditer(re.sub(r"`[^`\n]*`", "", prose(text))):
        target = match["target"]
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            if not re.fullmatch(r"https://[\w.-]+\.[a-z]+(/\S*)?", target):
                found.append(f"{target}: not https")
            if re.search(r"pypi\.org|pypi\.python\.org", target):
                found.append(f"{target}: a package index; link the project's own page")
            continue
        file = Path(os.path.normpath(page.parent / path)) if path else page
        if not file.exists() and file not in generated_pages():
            found.append(f"{target}: no such file")
        elif anchor and file.suffix == ".md" and anchor not in anchors(text_of(file)):
            found.append(f"{target}: no such heading")
    return found


@pytest.mark.parametrize("page", all_pages(), ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    assert not problems(page, text_of(page))


def test_links_of_generated_pages_lead_somewhere() -> None:
    found = {name(page): problems(page, text) for page, text in generated_pages().items()}
    assert not {page: wrong for page, wrong in found.items() if wrong}


@pytest.mark.parametrize("page", all_pages(), ids=name)
def test_paths_in_code_font_exist(page: Path) -> None:
    spans = re.findall(r"`[^`\n]+`", prose(text_of(page)))
    named = {path.rstrip(".") for span in spans for path in _PATH.findall(span)}
    gone = {path for path in named if path not in _NO_FILES and not list(ROOT.glob(path))}
    assert not gone


def test_pages_named_in_code_and_messages_exist() -> None:
    named: set[str] = set()
    for folder in _FOLDERS[:6]:
        for suffix in ("py", "yaml", "sh", "env"):
            for file in (ROOT / folder).rglob(f"*.{suffix}"):
                named |= set(re.findall(r"\bdocs/[\w/-]+\.md\b", file.read_text(encoding="utf-8")))
    assert named, "no page is named in the code"
    assert not {path for path in named if not (ROOT / path).is_file()}


def test_every_page_is_reached_from_the_navigation() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    absent = [name(page) for page in site_pages() if name(page).removeprefix("docs/") not in nav]
    assert not absent


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[a](gone.md)", "gone.md: no such file"),
        ("![a](images/gone.svg)", "images/gone.svg: no such file"),
        ("[a](index.md#nowhere)", "index.md#nowhere: no such heading"),
        ("[a](http://example.org)", "http://example.org: not https"),
        ("[a](https://pypi.org/project/x)", "https://pypi.org/project/x: a package index; link the project's own page"),
    ],
)
def test_a_wrong_link_is_found(text: str, problem: str) -> None:
    assert problems(ROOT / "docs" / "index.md", text) == [problem]


def test_links_in_code_are_no_links() -> None:
    assert not problems(ROOT / "docs" / "index.md", "`[a](gone.md)`\n```text\n[a](gone.md)\n```")
