"""What an evaluation finds beside plain scores: intervals, comparisons, ClimaX's averages, regions, spectra."""

from collections.abc import Mapping, Sequence
from typing import Any

from climax_hpc.data.sampler import Sample
from climax_hpc.evaluation.accumulators import Accumulator
from climax_hpc.evaluation.bootstrap import Bootstrap, LeadIntervals
from climax_hpc.evaluation.metrics import METRICS, Array, ScoreSums
from climax_hpc.evaluation.scoring import TRUTH, ForecastScoring, lead_key

OTHER = ("rmse_climax", "acc_climax", "activity", "activity_truth")


class ForecastStatistics:
    """Collects lead after lead; the series of single forecasts are dropped with each."""

    def __init__(self, scoring: ForecastScoring, bootstrap: Bootstrap, reference: str) -> None:
        self._scoring, self._bootstrap, self._reference = scoring, bootstrap, reference
        self._names = {label: m.variables for label, m in {**scoring.models, **scoring.baselines}.items()}
        self._globe = _Table(self._names)
        self._regions = {name: _Table(self._names) for name in scoring.regions}
        self._differences: dict[str, dict[str, dict[str, Any]]] = {
            label: {name: {} for name in names} for label, names in self._names.items() if label != reference
        }
        self._blocks: dict[str, float] = {}
        self._spectra: dict[str, dict[str, Any]] = {}

    def add(self, lead: float, samples: Sequence[Sample], accumulators: Mapping[str, Accumulator]) -> None:
        """Take in one lead time."""
        starts = [s.time_index for s in samples]
        found = self._globe.add(lead, starts, {x: accumulators[x].globe for x in self._names}, self._bootstrap)
        self._blocks[lead_key(lead)] = found.block_steps * self._scoring.source.step_hours
        for region, table in self._regions.items():
            table.add(lead, starts, {x: accumulators[x].regions[region] for x in self._names}, self._bootstrap)
        if self._bootstrap.resamples:
            self._compare(lead, found)
        if TRUTH in accumulators:
            spectra = {label: one.spectrum.spectra() for label, one in accumulators.items() if one.spectrum}
            self._spectra[lead_key(lead)] = spectra

    def _compare(self, lead: float, found: LeadIntervals) -> None:
        there = self._names[self._reference]
        for label, table in self._differences.items():
            for place, name in enumerate(self._names[label]):
                if name in there:
                    difference = found.difference(label, place, self._reference, there.index(name))
                    table[name][lead_key(lead)] = difference

    def content(self) -> dict[str, Any]:
        """The keys that evaluation.json has beside its scores."""
        found: dict[str, Any] = {"other_scores": self._globe.other, "spectra": self._spectra}
        if self._bootstrap.resamples:
            found["intervals"] = self._globe.intervals
            found["block_hours"] = self._blocks
            found["comparison"] = {"reference": self._reference, "differences": self._differences}
        found["regions"] = {
            name: {"scores": t.scores} | ({"intervals": t.intervals} if self._bootstrap.resamples else {})
            for name, t in self._regions.items()
        }
        return found


class _Table:
    """Label -> variable -> lead -> statistic -> number or interval."""

    def __init__(self, names: Mapping[str, Sequence[str]]) -> None:
        self._names = names
        self.scores, self.other, self.intervals = _empty(names), _empty(names), _empty(names)

    def add(
        self, lead: float, starts: Sequence[int], sums: Mapping[str, ScoreSums], bootstrap: Bootstrap
    ) -> LeadIntervals:
        """Enter one lead time."""
        series: dict[str, dict[str, Array]] = {label: one.series for label, one in sums.items()}
        found = LeadIntervals(series, starts, bootstrap)
        for label, variables in self._names.items():
            for place, name in enumerate(variables):
                key = lead_key(lead)
                self.scores[label][name][key] = {m: found.value(label, m, place) for m in METRICS}
                self.other[label][name][key] = {m: found.value(label, m, place) for m in OTHER}
                if bootstrap.resamples:
                    self.intervals[label][name][key] = {m: found.interval(label, m, place) for m in (*METRICS, *OTHER)}
        return found


def _empty(names: Mapping[str, Sequence[str]]) -> dict[str, dict[str, dict[str, Any]]]:
    return {label: {name: {} for name in variables} for label, variables in names.items()}
