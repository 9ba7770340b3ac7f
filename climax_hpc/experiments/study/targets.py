"""The targets of the study, each with what was found: met or not met, with counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from climax_hpc.experiments.study.sizes import StudySize
from climax_hpc.experiments.study.text import table
from climax_hpc.experiments.study.verdicts import VerdictRow, count, from_scratch

PROJECTED = 4  # variables of a climate projection (study_projection.yaml)


class Wanted(Enum):
    """What a target asks for."""

    AHEAD = "ahead"
    """Enough cases ahead, none lost."""
    NOT_LOST = "not lost"
    """Enough cases that are not lost."""
    SCORE = "score no higher"
    """Enough cases with a score no higher than the other's."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One target, about one opponent."""

    question: str
    """`question` of the rows that it is about."""
    against: str
    """`against` of these rows."""
    lead_hours: tuple[float, ...] | None = None
    """Lead times of these rows; None: all."""
    wanted: Wanted
    """What is counted."""
    needed: int
    """Cases that must be so."""
    cases: int
    """Number of cases."""
    text: str
    """The target in words."""
    added: bool = False
    """Set after the first run of the study; False: before it."""

    def chosen(self, rows: Sequence[VerdictRow]) -> list[VerdictRow]:
        """The rows that the target is about."""
        return [
            row
            for row in rows
            if (row.question, row.against) == (self.question, self.against)
            and (self.lead_hours is None or row.lead_hours in self.lead_hours)
        ]

    def is_met(self, rows: Sequence[VerdictRow]) -> bool:
        """True if as many cases as needed are as wanted; False if a case is missing."""
        mine = self.chosen(rows)
        if len(mine) != self.cases:
            return False
        lost = count(mine, "lost")
        if self.wanted is Wanted.AHEAD:
            return count(mine, "ahead") >= self.needed and not lost
        if self.wanted is Wanted.NOT_LOST:
            return len(mine) - lost >= self.needed
        return sum(row.ratio <= 1 for row in mine) >= self.needed

    def found(self, rows: Sequence[VerdictRow]) -> str:
        """The counts in words."""
        mine = self.chosen(rows)
        counts = f"ahead {count(mine, 'ahead')}, open {count(mine, 'open')}, lost {count(mine, 'lost')}"
        if self.wanted is Wanted.SCORE:
            counts = f"no higher in {sum(row.ratio <= 1 for row in mine)} of {len(mine)} ({counts})"
        return counts


def targets(size: StudySize) -> list[Target]:
    """The targets of a study of this size; lead times that it does not have are left out."""
    variables, found = len(size.variables), []

    def add(text: str, question: str, against: str, leads: Sequence[int], wanted: Wanted, spare: int = 0) -> None:
        added = question.endswith(from_scratch(""))
        held = size.lead_hours if question == "headline" else size.few_lead_hours
        hours = tuple(float(h) for h in leads if h in held)
        cases = PROJECTED if question.startswith("projection") else variables * (len(hours) or 1)
        if hours or not leads:
            found.append(
                Target(
                    question=question, against=against, lead_hours=hours or None, wanted=wanted, cases=cases,
                    needed=cases - spare, text=text, added=added,
                )
            )  # fmt: skip

    rivals = [network for network in size.rivals if network.settings.get("model.kind") in ("unet", "resnet")]
    for network in rivals:
        late = (48, 72, 120, 240)
        add("ahead at 2 to 10 d, two cases may be open", "headline", network.scratch, late, Wanted.AHEAD, 2)
        add("ahead at 6 and 24 h", "headline", network.scratch, (6, 24), Wanted.AHEAD)
    for network in rivals:
        add("ahead at 6 to 48 h", "headline", network.pretrained, (6, 24, 48), Wanted.AHEAD)
        add("none lost to 5 d", "headline", network.pretrained, (6, 24, 48, 72, 120), Wanted.NOT_LOST)
        add(
            f"ahead at 6 to 48 h with {smallest(size)} of the data",
            f"amount {smallest(size)}", network.pretrained, (6, 24, 48), Wanted.AHEAD,
        )  # fmt: skip
    add("ahead to 5 d", "headline", "linear regression", (6, 24, 48, 72, 120), Wanted.AHEAD)
    add("no worse at 10 d", "headline", "climatology", (240,), Wanted.NOT_LOST)
    for network in rivals:
        if network.settings.get("model.kind") == "resnet":
            for question in ("downscaling", from_scratch("downscaling")):
                add("RMSE of downscaling no higher", question, network.scratch, (), Wanted.SCORE)
    for question in ("projection", from_scratch("projection")):
        add("projection no worse, one case may be lost", question, "pattern scaling", (), Wanted.NOT_LOST, 1)
    return found


def smallest(size: StudySize) -> str:
    """The smallest amount of data."""
    return next(iter(size.amounts))


def section(size: StudySize, rows: Sequence[VerdictRow]) -> str:
    """All targets that the rows allow to judge, with a count of those met."""
    judged = [target for target in targets(size) if target.chosen(rows)]
    if not judged:
        return ""
    met = sum(target.is_met(rows) for target in judged)
    before = [target for target in judged if not target.added]
    when = "They were set before the study"
    if len(before) < len(judged):
        when = (
            f"{len(before)} were set before the study, of which {sum(target.is_met(rows) for target in before)} are "
            "met; those on questions from scratch were added after its first run"
        )
    lines = [
        [
            target.question,
            target.against,
            target.text,
            f"{target.needed} of {target.cases}",
            target.found(rows),
            "**met**" if target.is_met(rows) else "not met",
        ]
        for target in judged
    ]
    head = (
        f"## Targets\n\n{met} of {len(judged)} targets are met. {when}. The verdicts decide. "
        f"Ahead or lost: the paired interval of every seed excludes 0; open: the others. Unless the target says "
        f"otherwise, no case may be lost. {size.own.label} is pretrained where the question does not say from scratch."
    )
    unmet = "" if met == len(judged) else f"\n\n{_UNMET}"
    shown = table(["question", f"{size.own.label} against", "target", "needed", "found", ""], lines)
    return f"{head}\n\n{shown}{unmet}"


_UNMET = "[Why targets are not met, and what was tried](method.md#targets-that-are-not-met)."


def counts_section(rows: Sequence[VerdictRow]) -> str:
    """Number of cases by question and opponent, as results.json has them."""
    pairs = dict.fromkeys((row.question, row.against) for row in rows)
    lines = []
    for question, against in pairs:
        mine = [row for row in rows if (row.question, row.against) == (question, against)]
        lines.append([question, against, *(str(count(mine, word)) for word in ("ahead", "open", "lost"))])
    return (
        "## All verdicts\n\nNumber of cases (variable and lead time) on the test period; case by case they are in "
        "`docs/results.json`.\n\n" + table(["question", "against", "ahead", "open", "lost"], lines)
    )
