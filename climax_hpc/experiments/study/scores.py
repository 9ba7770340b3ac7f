"""Scores over seeds: every seed has its own evaluation, of the same forecasts; intervals hold those of all seeds.

The score of a network is its mean over the seeds. Its interval runs from the lowest lower to the highest upper end of
the seeds' bootstrap intervals: chance of the test weather and of the training, wider than either alone.
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
    """How a model's RMSE stands to another's."""

    BEATS = "beats"
    """Its whole interval lies below the other's."""
    PAIRED = "beats in pairs"
    """Intervals overlap, but that of the difference on the same forecasts lies below 0."""
    OPEN = "open"
    """Neither is shown."""
    LOSES = "loses"
    """The interval of the difference lies above 0."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The evaluations of one comparison, one per seed."""

    cards: tuple[Scorecard, ...]

    @classmethod
    def load(cls, folders: Sequence[Path]) -> "Scores":
        """Read the evaluations in these folders.

        Raises:
            UserError: one is absent or unreadable.
        """
        return cls(cards=tuple(Scorecard.load(folder) for folder in folders))

    @property
    def models(self) -> list[str]:
        """Labels of the networks; the first is what the others are compared with."""
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
        """See the head of this file."""
        return hull([card.interval(label, variable, lead) for card in self.cards])

    def ratio(self, label: str, other: str, variables: Sequence[str], lead: float) -> float:
        """RMSE as a share of another's, mean over variables."""
        return float(np.mean([self.rmse(label, v, lead) / self.rmse(other, v, lead) for v in variables]))

    def difference(self, other: str, variable: str, lead: float) -> Interval:
        """Interval of the first model's RMSE less another's, on the same draws; over the seeds as `interval`."""
        found = [card.difference(other, variable, lead) for card in self.cards]
        low, high = hull([one["interval"] if one else None for one in found])
        return -high, -low  # evaluations hold the other's less the first's

    def verdict(self, other: str, variable: str, lead: float) -> Verdict:
        """How the first model stands to another."""
        mine, theirs = self.interval(self.models[0], variable, lead), self.interval(other, variable, lead)
        low, high = self.difference(other, variable, lead)
        if mine[1] < theirs[0]:
            return Verdict.BEATS
        if low > 0:
            return Verdict.LOSES
        return Verdict.PAIRED if high < 0 else Verdict.OPEN

    def cell(self, label: str, variable: str, lead: float) -> str:
        """Score and interval for a table, in bold where no label has a lower score."""
        value = self.rmse(label, variable, lead)
        low, high = self.interval(label, variable, lead)
        best = value <= min(self.rmse(one, variable, lead) for one in self.labels)
        shown = f"**{format_score(value)}**" if best else format_score(value)
        return f"{shown} [{format_score(low)}, {format_score(high)}]"


def hull(intervals: Sequence[Sequence[float] | None]) -> Interval:
    """The lowest lower and the highest upper end; NaN where an interval is missing."""
    known = [one for one in intervals if one is not None]
    if len(known) < len(intervals):
        return float("nan"), float("nan")
    return min(one[0] for one in known), max(one[1] for one in known)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
