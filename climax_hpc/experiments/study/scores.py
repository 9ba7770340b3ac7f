"""Scores over seeds: each seed has its own evaluation of the same forecasts; intervals cover those of all seeds.

The score of a network is the mean over the seeds. Its interval is the hull of the bootstrap intervals of the seeds, so
it covers the uncertainty from the test weather and from the training, and is wider than either.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np

from climax_hpc.evaluation.scorecard import Scorecard
from climax_hpc.utils.formatting import format_score

Interval = tuple[float, float]


class Verdict(Enum):
    """How the RMSE of a model compares with that of another."""

    BETTER = "better"
    """Its whole interval is below that of the other."""
    PAIRED = "better in pairs"
    """Intervals overlap, but the interval of the difference on the same forecasts is below 0."""
    OPEN = "open"
    """Undecided."""
    WORSE = "worse"
    """The interval of the difference is above 0."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The evaluations of one comparison, one per seed."""

    cards: tuple[Scorecard, ...]

    @classmethod
    def load(cls, folders: Sequence[Path]) -> "Scores":
        """Read the evaluations in these folders.

        Raises:
            UserError: one is missing or unreadable.
        """
        return cls(cards=tuple(Scorecard.load(folder) for folder in folders))

    @property
    def models(self) -> list[str]:
        """Labels of the networks; the others are compared with the first."""
        return self.cards[0].models

    @property
    def labels(self) -> list[str]:
        """Networks and baselines."""
        return [*self.cards[0].models, *self.cards[0].baselines]

    @property
    def lead_hours(self) -> list[float]:
        """Lead times [h]."""
        return self.cards[0].lead_hours

    def rmse(self, label: str, variable: str, lead: float) -> float:
        """Mean over the seeds, in the variable's units."""
        return float(np.mean([_number(card.value(label, variable, lead)) for card in self.cards]))

    def interval(self, label: str, variable: str, lead: float) -> Interval:
        """Interval over test weather and seeds; see the top of this file."""
        return hull([card.interval(label, variable, lead) for card in self.cards])

    def ratio(self, label: str, other: str, variables: Sequence[str], lead: float) -> float:
        """RMSE relative to that of another, mean over variables."""
        return float(np.mean([self.rmse(label, v, lead) / self.rmse(other, v, lead) for v in variables]))

    def difference(self, other: str, variable: str, lead: float) -> Interval:
        """Interval of the RMSE of the first model minus that of another, on the same draws; see `interval`."""
        found = [card.difference(other, variable, lead) for card in self.cards]
        low, high = hull([one["interval"] if one else None for one in found])
        return -high, -low  # evaluations store the other minus the first

    def verdict(self, other: str, variable: str, lead: float) -> Verdict:
        """How the first model compares with another."""
        mine, theirs = self.interval(self.models[0], variable, lead), self.interval(other, variable, lead)
        low, high = self.difference(other, variable, lead)
        if mine[1] < theirs[0]:
            return Verdict.BETTER
        if low > 0:
            return Verdict.WORSE
        return Verdict.PAIRED if high < 0 else Verdict.OPEN

    def cell(self, label: str, variable: str, lead: float) -> str:
        """Score and interval for a table; bold: no label has a lower score."""
        value = self.rmse(label, variable, lead)
        low, high = self.interval(label, variable, lead)
        best = value <= min(self.rmse(one, variable, lead) for one in self.labels)
        shown = f"**{format_score(value)}**" if best else format_score(value)
        return f"{shown} [{format_score(low)}, {format_score(high)}]"


def hull(intervals: Sequence[Sequence[float] | None]) -> Interval:
    """The lowest lower and the highest upper end; NaN if an interval is missing."""
    known = [one for one in intervals if one is not None]
    if len(known) < len(intervals):
        return float("nan"), float("nan")
    return min(one[0] for one in known), max(one[1] for one in known)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
