"""Targets are judged by counts of verdicts; page and results.json say the same."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from climax_hpc.experiments.study.networks import RESNET, UNET
from climax_hpc.experiments.study.sizes import FULL
from climax_hpc.experiments.study.targets import Target, Wanted, counts_section, section, targets
from climax_hpc.experiments.study.verdicts import VerdictRow, Word

DOCS = Path(__file__).parents[3] / "docs"
LEADS = (48.0, 72.0, 120.0, 240.0)


def rows(words: Sequence[Word], *, question: str = "headline", against: str = UNET.scratch) -> list[VerdictRow]:
    """The words over variables and lead times of FULL from 2 to 10 d, in this order."""
    cases = [(v, h) for v in FULL.variables for h in LEADS]
    return [
        VerdictRow(question=question, against=against, variable=v, lead_hours=h, verdict=word, ratio=0.9)
        for (v, h), word in zip(cases, words, strict=True)
    ]


def target(against: str = UNET.scratch, start: str = "ahead at 2 to 10 d") -> Target:
    return next(one for one in targets(FULL) if one.against == against and one.text.startswith(start))


@pytest.mark.parametrize(
    ("ahead", "open_", "lost", "met"),
    [(16, 0, 0, True), (14, 2, 0, True), (13, 3, 0, False), (15, 0, 1, False), (14, 1, 1, False)],
)
def test_enough_ahead_and_none_lost(ahead: int, open_: int, lost: int, met: bool) -> None:
    words: list[Word] = ["ahead"] * ahead + ["open"] * open_ + ["lost"] * lost
    assert target().is_met(rows(words)) is met
    assert target().found(rows(words)) == f"ahead {ahead}, open {open_}, lost {lost}"


def test_a_missing_case_is_no_success() -> None:
    assert not target().is_met(rows(["ahead"] * 16)[:15])
    assert not target(RESNET.scratch).is_met(rows(["ahead"] * 16))  # another opponent


def test_the_other_kinds_of_target() -> None:
    ten_days = next(one for one in targets(FULL) if one.wanted is Wanted.NOT_LOST and one.against == "climatology")
    late = [row for row in rows(["ahead", "open"] * 8, against="climatology") if row.lead_hours == 240]
    assert ten_days.is_met(late)
    worse = [*late[1:], VerdictRow(**{**vars(late[0]), "verdict": "lost"})]
    assert not ten_days.is_met(worse)
    fine = next(one for one in targets(FULL) if one.wanted is Wanted.SCORE)
    scored = [
        VerdictRow(
            question="downscaling", against=RESNET.scratch, variable=v, lead_hours=None, verdict="open", ratio=ratio
        )
        for v, ratio in zip(FULL.variables, (0.9, 1.0, 0.99, 1.001), strict=True)
    ]
    assert fine.found(scored).startswith("no higher in 3 of 4")
    assert not fine.is_met(scored)
    assert fine.is_met([*scored[:3], VerdictRow(**{**vars(scored[3]), "ratio": 0.999})])


def test_the_targets_are_those_that_were_set() -> None:
    """Issue 14: counts of cases by opponent."""
    found = [(one.question, one.against, one.needed, one.cases) for one in targets(FULL)]
    both = [[("headline", n.scratch, 14, 16), ("headline", n.scratch, 8, 8)] for n in (RESNET, UNET)]
    pretrained = [
        [
            ("headline", n.pretrained, 12, 12), ("headline", n.pretrained, 20, 20),
            ("amount 1/16", n.pretrained, 12, 12),
        ]
        for n in (RESNET, UNET)
    ]  # fmt: skip
    rest = [
        ("headline", "linear regression", 20, 20), ("headline", "climatology", 4, 4),
        ("downscaling", RESNET.scratch, 4, 4), ("downscaling from scratch", RESNET.scratch, 4, 4),
        ("projection", "pattern scaling", 3, 4), ("projection from scratch", "pattern scaling", 3, 4),
    ]  # fmt: skip
    assert found == [*both[0], *both[1], *pretrained[0], *pretrained[1], *rest]


def tables(text: str) -> list[list[str]]:
    """Cells of all rows of Markdown and HTML tables."""
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]
    for row in re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL):
        found = re.findall(r"<t[dh]>(.*?)</t[dh]>", row, re.DOTALL)
        cells.append([unescape(re.sub(r"</?b>", "**", " ".join(cell.split()))) for cell in found])
    return cells


def check_agreement(page: str, verdicts: list[dict[str, Any]]) -> None:
    """Every count on the page, of all verdicts and of the targets, is that of results.json."""
    _, _, counts = page.partition("## All verdicts")
    counted = {tuple(row[:2]): row[2:] for row in tables(counts.partition("\n## ")[0]) if len(row) == 5}
    pairs = {(one["question"], one["against"]) for one in verdicts}
    assert pairs <= set(counted)
    for pair in pairs:
        mine = [one["verdict"] for one in verdicts if (one["question"], one["against"]) == pair]
        assert counted[pair] == [str(mine.count(word)) for word in ("ahead", "open", "lost")], pair
    on_page = tables(page.partition("## Targets")[2].partition("\n## ")[0])
    for one in targets(FULL):
        mine = [
            v["verdict"]
            for v in verdicts
            if (v["question"], v["against"]) == (one.question, one.against)
            and (one.lead_hours is None or v["lead_hours"] in one.lead_hours)
        ]
        if not mine:
            continue
        (row,) = [row for row in on_page if row[:3] == [one.question, one.against, one.text]]
        counts = f"ahead {mine.count('ahead')}, open {mine.count('open')}, lost {mine.count('lost')}"
        assert counts in row[4]
        if one.wanted is Wanted.AHEAD:
            enough = mine.count("ahead") >= one.needed and "lost" not in mine and len(mine) == one.cases
            assert (row[5] == "**met**") is enough


def test_page_and_json_agree() -> None:
    made = [*rows(["ahead"] * 14 + ["open"] * 2), *rows(["lost"] * 16, against=RESNET.scratch)]
    page = f"{section(FULL, made)}\n\n## Something\n\n{counts_section(made)}"
    verdicts = [row.to_json() for row in made]
    assert set(verdicts[0]) == {"question", "against", "variable", "lead_hours", "verdict"}
    check_agreement(page, verdicts)
    assert "1 of 2 targets are met" in page
    verdicts[0]["verdict"] = "lost"
    with pytest.raises(AssertionError):
        check_agreement(page, verdicts)


def test_targets_that_were_added_later_are_counted_apart() -> None:
    early = rows(["ahead"] * 16, against=RESNET.scratch)
    late = [replace(row, question="projection from scratch", against="pattern scaling") for row in early[:4]]
    assert "They were set before the study." in section(FULL, early)
    text = " ".join(section(FULL, [*early, *late]).split())
    assert "2 of 2 targets are met. 1 were set before the study, of which 1 are met; those on questions from" in text


def test_the_published_page_agrees_with_the_published_json() -> None:
    if not (DOCS / "results.json").exists():
        pytest.skip("docs/results.json is written by the next `make study`")
    check_agreement((DOCS / "results/study.md").read_text(), json.loads((DOCS / "results.json").read_text()))
