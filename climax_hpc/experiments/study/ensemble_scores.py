"""Scores of ensembles over seeds, read from evaluations; see `scores.py` for what an interval covers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from climax_hpc.evaluation.output import lead_key
from climax_hpc.evaluation.scorecard import Scorecard
from climax_hpc.experiments.study.scores import Interval, hull

CRPS, RMSE_OF_MEAN, SPREAD_SKILL = "fair_crps", "unbiased_rmse", "spread_skill"


@dataclass(frozen=True, kw_only=True)
class Paired:
    """A score of an ensemble against that of another forecast, on the same forecasts; lower is better."""

    relative: float
    """Difference relative to the other's score, mean over the seeds; below 0 is better."""
    interval: Interval
    """Of the difference, over test weather and seeds."""

    @property
    def is_better(self) -> bool:
        """True where the interval of every seed lies below 0."""
        return self.interval[1] < 0

    @property
    def is_worse(self) -> bool:
        """True where it lies above 0."""
        return self.interval[0] > 0


@dataclass(frozen=True, kw_only=True)
class ScoresOfEnsembles:
    """The ensemble scores of one comparison, one evaluation per seed."""

    contents: tuple[dict[str, Any], ...]

    @classmethod
    def load(cls, folders: Sequence[Path]) -> "ScoresOfEnsembles":
        """Read the evaluations in these folders.

        Raises:
            UserError: one is missing or unreadable.
        """
        return cls(contents=tuple(Scorecard.load(folder).content for folder in folders))

    def with_labels_of(self, other: "ScoresOfEnsembles", labels: Sequence[str]) -> "ScoresOfEnsembles":
        """These scores, and those of some ensembles of another comparison on the same forecasts, seed by seed."""
        return ScoresOfEnsembles(
            contents=tuple(_joined(*pair, labels) for pair in zip(self.contents, other.contents, strict=True))
        )

    @property
    def labels(self) -> list[str]:
        """Labels of the ensembles, those of models first."""
        return list(self.contents[0]["ensembles"])

    def members(self, label: str) -> int:
        """Number of members of an ensemble."""
        return int(self.contents[0]["ensembles"][label]["members"])

    def value(self, label: str, variable: str, lead: float, metric: str = CRPS) -> float:
        """Mean over the seeds."""
        return float(
            np.mean([one["ensemble_scores"][label][variable][lead_key(lead)][metric] for one in self.contents])
        )

    def interval(self, label: str, variable: str, lead: float, metric: str = CRPS) -> Interval:
        """Interval over test weather and seeds."""
        return hull([one["ensemble_intervals"][label][variable][lead_key(lead)][metric] for one in self.contents])

    def error(self, label: str, variable: str, lead: float) -> float:
        """Mean absolute error of a deterministic forecast, which is its CRPS; mean over the seeds."""
        return float(np.mean([one["scores"][label][variable][lead_key(lead)]["mae"] for one in self.contents]))

    def paired(self, label: str, other: str, variable: str, lead: float, metric: str = CRPS) -> Paired:
        """An ensemble against another forecast."""
        found = [one["ensemble_comparison"][other][label][variable][lead_key(lead)][metric] for one in self.contents]
        relative = float(np.mean([one["relative"] for one in found]))
        return Paired(relative=relative, interval=hull([one["interval"] for one in found]))

    def divergence(self, label: str, variable: str, lead: float, metric: str) -> tuple[float, Interval]:
        """A score against the ensemble of the truth, mean over the seeds, and its interval."""
        tables = [one["divergence"] for one in self.contents]
        values = [one["scores"][label][variable][lead_key(lead)][metric] for one in tables]
        intervals = [one["intervals"][label][variable][lead_key(lead)][metric] for one in tables]
        return float(np.mean(values)), hull(intervals)


def _joined(content: dict[str, Any], other: dict[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """The evaluation with what another one says of some ensembles."""
    found = dict(content)
    for part in ("ensembles", "ensemble_scores", "ensemble_intervals"):
        found[part] = content[part] | {label: other[part][label] for label in labels}
    compared = other["ensemble_comparison"]
    found["ensemble_comparison"] = {
        reference: table | {label: compared[reference][label] for label in labels if reference in compared}
        for reference, table in content["ensemble_comparison"].items()
    }
    if "divergence" in content:
        parts = {
            part: content["divergence"][part] | {label: other["divergence"][part][label] for label in labels}
            for part in ("scores", "intervals")
        }
        found["divergence"] = content["divergence"] | parts
    return found
