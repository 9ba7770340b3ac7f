"""Tables of metrics, intervals and paired comparisons, filled lead time by lead time, as evaluation.json holds them."""

from collections.abc import Mapping, Sequence
from typing import Any

from climax_hpc.data.sampler import Sample
from climax_hpc.evaluation.accumulators import Accumulator, ScoreSums
from climax_hpc.evaluation.bootstrap import Bootstrap, LeadIntervals
from climax_hpc.evaluation.ensemble_table import EnsembleTable
from climax_hpc.evaluation.metrics import TaskName, metrics_of, other_metrics_of
from climax_hpc.evaluation.output import LeadScores, PairedComparison, lead_key
from climax_hpc.evaluation.stored import TRUTH


class ScoreTable:
    """Metrics, intervals and differences from a reference of all models on the same forecasts and draws."""

    def __init__(
        self, variables: Mapping[str, Sequence[str]], task: TaskName, bootstrap: Bootstrap, reference: str | None = None
    ) -> None:
        """`variables`: label -> registry names, in the order of the sums; no differences without a `reference`."""
        self._variables, self._bootstrap, self._reference = variables, bootstrap, reference
        self._metrics, self._others = metrics_of(task), other_metrics_of(task)
        self.scores: LeadScores = _empty(variables)
        self.other_scores: LeadScores = _empty(variables)
        self._intervals = _empty(variables)
        self._differences = _empty({label: names for label, names in variables.items() if label != reference})

    def add(self, lead_hours: float, starts: Sequence[int], sums: Mapping[str, ScoreSums]) -> int:
        """Add all forecasts of one lead time, given the time index of each start; returns the steps of a block."""
        metrics, key = [*self._metrics, *self._others], lead_key(lead_hours)
        found = LeadIntervals({x: sums[x].series for x in self._variables}, starts, self._bootstrap, metrics)
        for label, variables in self._variables.items():
            for place, name in enumerate(variables):
                self.scores[label][name][key] = {m.name: found.value(label, m.name, place) for m in self._metrics}
                self.other_scores[label][name][key] = {m.name: found.value(label, m.name, place) for m in self._others}
                self._intervals[label][name][key] = {m.name: found.interval(label, m.name, place) for m in metrics}
        if self._reference is not None:
            self._compare(key, found, self._reference)
        return found.block_steps

    def _compare(self, key: str, found: LeadIntervals, reference: str) -> None:
        names = list(self._variables[reference])
        for label, table in self._differences.items():
            for place, name in enumerate(self._variables[label]):
                if name in names:
                    table[name][key] = found.difference(label, place, reference, names.index(name))

    @property
    def intervals(self) -> dict[str, Any] | None:
        """Label -> variable -> lead -> metric -> ends of the interval; None without a bootstrap."""
        return self._intervals if self._bootstrap.resamples else None

    @property
    def comparison(self) -> PairedComparison | None:
        """Differences from the reference; None without one, or without a bootstrap."""
        if self._reference is None or not self._bootstrap.resamples:
            return None
        return PairedComparison(reference=self._reference, differences=self._differences)


class ForecastStatistics:
    """Tables of the globe and of regions, and spectra; the series of single forecasts are dropped with each lead."""

    def __init__(
        self,
        variables: Mapping[str, Sequence[str]],
        regions: Sequence[str],
        *,
        bootstrap: Bootstrap,
        reference: str,
        start_hours: float,
        steps_between_starts: int = 1,
        ensembles: EnsembleTable | None = None,
    ) -> None:
        """`start_hours`: time between successive starts [h], which is `steps_between_starts` steps of the source.

        `ensembles`: filled with the scores of all that have members.
        """
        self.globe = ScoreTable(variables, "forecast", bootstrap, reference)
        self._regions = {name: ScoreTable(variables, "forecast", bootstrap) for name in regions}
        self._has_intervals, self._start_hours = bool(bootstrap.resamples), start_hours
        self._steps_between = steps_between_starts
        self._blocks: dict[str, float] = {}
        self._ensembles = ensembles
        self._spectra: dict[str, dict[str, Any]] = {}

    def add(self, lead_hours: float, samples: Sequence[Sample], accumulators: Mapping[str, Accumulator]) -> None:
        """Add one lead time."""
        starts, key = [sample.time_index // self._steps_between for sample in samples], lead_key(lead_hours)
        models = {label: one for label, one in accumulators.items() if label != TRUTH}
        block_steps = self.globe.add(lead_hours, starts, {label: one.globe for label, one in models.items()})
        self._blocks[key] = block_steps * self._start_hours
        for name, table in self._regions.items():
            table.add(lead_hours, starts, {label: one.regions[name] for label, one in models.items()})
        if self._ensembles:
            of_members = {label: one.ensemble for label, one in models.items() if one.ensemble}
            self._ensembles.add(lead_hours, starts, block_steps, of_members)
        if TRUTH in accumulators:
            self._spectra[key] = {label: one.spectrum.spectra() for label, one in accumulators.items() if one.spectrum}

    def details(self) -> dict[str, Any]:
        """What evaluation.json holds of forecasts in addition to scores, intervals and the comparison."""
        regions: dict[str, dict[str, Any]] = {
            name: {"scores": table.scores} | ({"intervals": table.intervals} if self._has_intervals else {})
            for name, table in self._regions.items()
        }
        blocks = {"block_hours": self._blocks} if self._has_intervals else {}
        ensembles = self._ensembles.details() if self._ensembles else {}
        return {
            "other_scores": self.globe.other_scores,
            "spectra": self._spectra,
            "regions": regions,
            **blocks,
            **ensembles,
        }


def _empty(names: Mapping[str, Sequence[str]]) -> dict[str, dict[str, dict[str, Any]]]:
    return {label: {name: {} for name in variables} for label, variables in names.items()}
