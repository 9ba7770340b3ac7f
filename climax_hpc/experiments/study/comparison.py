"""Comparison of the first model with another one over variables and lead times: counts and a sentence."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from climax_hpc.experiments.study.scores import Scores, Verdict
from climax_hpc.experiments.study.text import lead, listed, signed_percent


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How often the first model is better than another one."""

    counts: Counter[Verdict]
    """Number of cases (pairs of variable and lead time) by verdict."""
    changes: str
    """Relative change of RMSE by lead time, mean over the variables, in words."""

    @property
    def cases(self) -> int:
        """Number of cases."""
        return sum(self.counts.values())

    @property
    def ahead(self) -> int:
        """Cases in which it is better, by intervals of the scores or of the paired differences."""
        return self.counts[Verdict.BETTER] + self.counts[Verdict.PAIRED]

    @property
    def behind(self) -> int:
        """Cases in which it is worse."""
        return self.counts[Verdict.WORSE]

    @property
    def sentence(self) -> str:
        """Both counts and the changes, as a sentence."""
        return (
            f"better in {self.ahead} of {self.cases} cases (paired intervals), worse in {self.behind}; RMSE, mean over "
            f"the variables: {self.changes}"
        )


def compare(scores: Scores, other: str, variables: Sequence[str], leads: Sequence[float]) -> Comparison:
    """Compare the first model of `scores` with another one."""
    first = scores.models[0]
    return Comparison(
        counts=Counter(scores.verdict(other, v, h) for v in variables for h in leads),
        changes=listed([signed_percent(scores.ratio(first, other, variables, h)) + _at(h) for h in leads]),
    )


def _at(hours: float) -> str:
    """Empty for scores without lead time."""
    return f" at {lead(hours)}" if hours else ""
