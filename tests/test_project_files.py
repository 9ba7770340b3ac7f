"""Files for contributors and citing: they agree with the package and with one another."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECISIONS = sorted((ROOT / "docs/adr").glob("0*.md"))
MAKEFILE = (ROOT / "Makefile").read_text()
TESTS = sorted(path for path in (ROOT / "tests").rglob("*.py") if "cluster" not in path.parts)
SYSTEM = re.compile(r"/(proc|sys|dev|etc|usr|bin|sbin|mnt)(/|$)")
# Absolute paths that are refused, or shown, as text: no test opens them.
TEXT_ALONE = {"/tmp", "/tmp/x", "/tmp/x.h5", "/a", "/a/b", "/outside", "/x", "/fx/", "/scratch/it's mine/sweep 1", "/s"}


def test_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]
    assert "arxiv.org/abs/2301.10343" in citation["references"][0]["url"]


def test_changelog_has_this_version_and_the_sections_of_keep_a_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert PROJECT["version"] in headings
    sections = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert sections <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_workflow_runs_the_same_as_by_hand() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    commands = [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step]
    assert len(commands) == 1
    assert commands[0].endswith(".ci/run")


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_every_decision_has_its_parts_and_is_listed(page: Path) -> None:
    text = page.read_text()
    number = int(page.stem[:4])
    assert text.startswith(f"# {number}. ")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Instead", "Consequences"]
    assert len(text.splitlines()) <= 60  # one page
    assert f"[{number}]({page.name})" in (page.parent / "index.md").read_text()


def test_contributing_names_targets_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    targets = set(re.findall(r"make ([a-z-]+)", text))
    assert {"setup", "test", "lint", "release-check"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


@pytest.mark.parametrize("file", ["CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "docs/log.md", *DECISIONS])
def test_lines_are_short(file: str | Path) -> None:
    lines = (ROOT / file).read_text().splitlines()
    assert not [line for line in lines if len(line) > 100 and not line.startswith("| `")]  # rows of `bench record`


def test_tests_use_no_folder_outside_their_own() -> None:
    """An absolute path such as /nowhere is another thing on another machine; what a system has is allowed."""
    found = {
        f"{path.relative_to(ROOT)}: {text[:60]}"
        for path in TESTS
        for text in texts(ast.parse(path.read_text()))
        if re.fullmatch(r"/[\w.]+(/[\w.' -]+)*/?", text) and not SYSTEM.match(text) and text not in TEXT_ALONE
    }
    assert not found


def texts(node: ast.AST) -> Iterator[str]:
    """String literals, without the pieces of f-strings."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for child in ast.iter_child_nodes(node) if not isinstance(node, ast.JoinedStr) else ():
        yield from texts(child)
