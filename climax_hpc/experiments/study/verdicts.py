"""Verdicts of the study as rows: ClimaX, pretrained or from scratch, against another network or baseline."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from climax_hpc.experiments.study.scores import Scores, Verdict

Word = Literal["ahead", "open", "lost"]


@dataclass(frozen=True, kw_only=True)
class VerdictRow:
    """One case: a variable at a lead time."""

    question: str
    """Name of the question, of `amount` with the share of the data; see `from_scratch`."""
    against: str
    """Label of the network or baseline compared with."""
    variable: str
    """Registry name."""
    lead_hours: float | None
    """Lead time [h]; None for tasks without."""
    verdict: Word
    """`ahead` or `lost`: the paired interval of every seed excludes 0; `open`: undecided."""
    ratio: float
    """Score relative to that of the other; below 1 is better."""

    def to_json(self) -> dict[str, Any]:
        """As in results.json."""
        return {
            "question": self.question,
            "against": self.against,
            "variable": self.variable,
            "lead_hours": self.lead_hours,
            "verdict": self.verdict,
        }


def rows_of(
    question: str, scores: Scores, variables: Sequence[str], leads: Sequence[float], *, has_leads: bool = True
) -> list[VerdictRow]:
    """The first model of `scores` against all others."""
    first = scores.models[0]
    return [
        VerdictRow(
            question=question,
            against=other,
            variable=variable,
            lead_hours=float(hours) if has_leads else None,
            verdict=word(scores.verdict(other, variable, hours)),
            ratio=scores.ratio(first, other, [variable], hours),
        )
        for other in scores.labels
        if other != first
        for variable in variables
        for hours in leads
    ]


def from_scratch(question: str) -> str:
    """Name of a question in the rows of the first network from scratch; other rows are of the pretrained one."""
    return f"{question} from scratch"


def word(verdict: Verdict) -> Word:
    """The word for a verdict in results.json."""
    if verdict in (Verdict.BETTER, Verdict.PAIRED):
        return "ahead"
    return "lost" if verdict is Verdict.WORSE else "open"


def count(rows: Iterable[VerdictRow], verdict: Word) -> int:
    """Number of rows with this verdict."""
    return sum(row.verdict == verdict for row in rows)
