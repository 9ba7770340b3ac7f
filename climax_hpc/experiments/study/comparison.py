"""The first model of a comparison against another, over variables and lead times: counts and a sentence."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from climax_hpc.experiments.study.scores import Scores, Verdict
from climax_hpc.experiments.study.text import lead, listed, signed_percent


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How often the first model is better than another."""

    counts: Counter[Verdict]
    """Cases, that is, pairs of a variable and a lead time, by verdict."""
    changes: str
    """RMSE against the other's by lead time, mean of the variables, in words."""

    @property
    def cases(self) -> int:
        """All of them."""
        return sum(self.counts.values())

    @property
    def ahead(self) -> int:
        """Cases where it is better, intervals of scores or of paired differences apart."""
        return self.counts[Verdict.BEATS] + self.counts[Verdict.PAIRED]

    @property
    def behind(self) -> int:
        """Cases where it is worse."""
        return self.counts[Verdict.LOSES]

    @property
    def sentence(self) -> str:
        """Both counts and the changes."""
        return (
            f"better in {self.ahead} of {self.cases} cases (paired intervals), worse in {self.behind}; RMSE, mean of "
            f"the variables: {self.changes}"
        )


def compare(scores: Scores, other: str, variables: Sequence[str], leads: Sequence[float]) -> Comparison:
    """The first model of `scores` against another."""
    first = scores.models[0]
    return Comparison(
        counts=Counter(scores.verdict(other, v, h) for v in variables for h in leads),
        changes=listed([signed_percent(scores.ratio(first, other, variables, h)) + _at(h) for h in leads]),
    )


def _at(hours: float) -> str:
    """Nothing for scores without lead time."""
    return f" at {lead(hours)}" if hours else ""
