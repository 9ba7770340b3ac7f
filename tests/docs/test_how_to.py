"""The page on changing things names one existing file for each of its tasks."""

import re

import pytest

from .pages import DOCS, anchors, text_of

PAGE = DOCS / "developing" / "how-to.md"
TASKS = (
    "Add a variable", "Read a source with odd names", "Change the weights of the loss", "Add a downstream task",
    "Change the warm-up", "Add a metric", "Add a baseline", "Change what the report draws", "Add a GPU target",
    "Change the stop signal",
)  # fmt: skip


def _section(title: str) -> str:
    parts = re.split(r"^## ", text_of(PAGE), flags=re.MULTILINE)
    found = [part for part in parts if part.startswith(f"{title}\n")]
    assert len(found) == 1, f"{title}: {len(found)} sections"
    return found[0]


@pytest.mark.parametrize("title", TASKS)
def test_a_task_names_its_file(title: str) -> None:
    files = re.findall(r"^File: .*\]\(([^)]+)\)", _section(title), re.MULTILINE)
    assert len(files) == 1
    assert (PAGE.parent / files[0]).is_file()


def test_the_table_links_every_task() -> None:
    table = text_of(PAGE).split("\n## ")[0]
    linked = re.findall(r"\]\(#([\w-]+)\)", table)
    assert len(linked) == len(TASKS)
    assert set(linked) <= anchors(text_of(PAGE))
    for path in re.findall(r"`([^`]+)`", table):
        assert (DOCS.parent / path).exists(), path
