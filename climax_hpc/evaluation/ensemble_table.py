"""Tables of the scores of ensembles, as evaluation.json holds them, filled lead time by lead time.

Intervals and comparisons are of the same draws as those of the deterministic scores (`bootstrap`).
Dimensions: N forecasts of one lead time · D draws of them · O variables · R ranks or probabilities.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from climax_hpc.evaluation.bootstrap import Bootstrap, between, draw_blocks, runs_of
from climax_hpc.evaluation.ensemble_metrics import (
    COMPARED,
    ENERGY_METRICS,
    ensemble_metrics,
    mean_shares,
    observed_frequency,
)
from climax_hpc.evaluation.ensemble_sums import EnsembleSums
from climax_hpc.evaluation.metrics import Array, ForecastMeans, Metric, as_number, compute_metrics
from climax_hpc.evaluation.output import lead_key
from climax_hpc.evaluation.stored import EnsembleEntry


class EnsembleTable:
    """Scores, intervals, histograms and comparisons of all ensembles."""

    def __init__(
        self,
        ensembles: Mapping[str, EnsembleEntry],
        percentiles: Sequence[float],
        bootstrap: Bootstrap,
        references: Sequence[str],
    ) -> None:
        """`references`: labels of ensembles or of deterministic forecasts, whose CRPS is their MAE."""
        self._ensembles, self._percentiles = dict(ensembles), tuple(percentiles)
        self._bootstrap, self._references = bootstrap, list(references)
        self._tables: dict[str, dict[str, Any]] = {}

    def add(self, lead_hours: float, starts: Sequence[int], block_steps: int, sums: Mapping[str, EnsembleSums]) -> None:
        """Add all forecasts of one lead time: sums of every ensemble, and of references as ensembles of one member.

        `starts`: time index (N,) of every forecast, ascending; `block_steps`: of them in a block of the bootstrap.
        """
        key, metrics = lead_key(lead_hours), list(ensemble_metrics(self._percentiles).values())
        draws_DN = draw_blocks(runs_of(starts), block_steps, self._bootstrap.resamples)
        found = {label: _LeadDraws(one, draws_DN, metrics) for label, one in sums.items()}
        for label in self._ensembles:
            self._add_scores(key, label, found[label])
            self._add_ranks(key, label, found[label])
            self._add_reliability(key, label, found[label])
            self._add_energy(key, label, found[label])
            for reference in self._references if self._bootstrap.resamples else ():
                if reference != label:
                    self._compare(key, label, found[label], reference, found[reference])

    def details(self) -> dict[str, Any]:
        """What evaluation.json holds of ensembles."""
        of_ensembles = {label: asdict(entry) for label, entry in self._ensembles.items()}
        return {"ensembles": of_ensembles, "ensemble_percentiles": list(self._percentiles), **self._tables}

    def _add_scores(self, key: str, label: str, one: "_LeadDraws") -> None:
        for place, variable in enumerate(one.variables):
            values = {name: as_number(value_1O[0, place]) for name, value_1O in one.values.items()}
            self._at("ensemble_scores", label, variable)[key] = values
            if self._bootstrap.resamples:
                ends = {name: self._ends(draws_DO[:, place]) for name, draws_DO in one.draws.items()}
                self._at("ensemble_intervals", label, variable)[key] = ends

    def _add_ranks(self, key: str, label: str, one: "_LeadDraws") -> None:
        values_1OR, draws_DOR = (mean_shares(one.series["rank_histogram"], w) for w in one.weights)
        for place, variable in enumerate(one.variables):
            entry: dict[str, Any] = {"frequency": _numbers(values_1OR[0, place])}
            if self._bootstrap.resamples:
                entry["interval"] = [self._ends(draws_D) for draws_D in draws_DOR[:, place].T]
            self._at("rank_histograms", label, variable)[key] = entry

    def _add_reliability(self, key: str, label: str, one: "_LeadDraws") -> None:
        whole_1N = one.weights[0]
        for percentile in self._percentiles:
            values_1OR, draws_DOR = (observed_frequency(one.series, percentile, w) for w in one.weights)
            shares_OR, events_OR = (
                mean_shares(one.series[f"{name}_{percentile:g}"], whole_1N)[0] for name in ("forecasts", "events")
            )
            for place, variable in enumerate(one.variables):
                entry: dict[str, Any] = {
                    "forecasts": _numbers(shares_OR[place]),
                    "observed": _numbers(values_1OR[0, place]),
                    "base_rate": as_number(events_OR[place].sum()),
                }
                if self._bootstrap.resamples:
                    entry["interval"] = [self._ends(draws_D) for draws_D in draws_DOR[:, place].T]
                self._at("reliability", label, variable).setdefault(key, {})[f"{percentile:g}"] = entry

    def _add_energy(self, key: str, label: str, one: "_LeadDraws") -> None:
        entry = self._tables.setdefault("energy_scores", {}).setdefault(label, {"variables": list(one.variables)})
        scores = {name: as_number(value_11[0, 0]) for name, value_11 in one.energy_values.items()}
        entry.setdefault("scores", {})[key] = scores
        if self._bootstrap.resamples:
            ends = {name: self._ends(draws_D1[:, 0]) for name, draws_D1 in one.energy_draws.items()}
            entry.setdefault("intervals", {})[key] = ends

    def _compare(self, key: str, label: str, one: "_LeadDraws", reference: str, other: "_LeadDraws") -> None:
        table = self._tables.setdefault("ensemble_comparison", {}).setdefault(reference, {}).setdefault(label, {})
        for place, variable in enumerate(one.variables):
            if variable not in other.variables:
                continue
            where = other.variables.index(variable)
            table.setdefault(variable, {})[key] = {
                name: self._difference(
                    (one.values[name][0, place], one.draws[name][:, place]),
                    (other.values[same][0, where], other.draws[same][:, where]),
                )
                for name, same in ((name, other.same(name)) for name in COMPARED)
            }
        if one.variables == other.variables:
            of_energy = self._tables["energy_scores"][label].setdefault("comparison", {}).setdefault(reference, {})
            of_energy[key] = {
                name: self._difference(
                    (one.energy_values[name][0, 0], one.energy_draws[name][:, 0]),
                    (other.energy_values[same][0, 0], other.energy_draws[same][:, 0]),
                )
                for name, same in ((name, other.same(name)) for name in ENERGY_METRICS)
            }

    def _difference(self, one: tuple[float, Array], other: tuple[float, Array]) -> dict[str, Any]:
        """Of two values and their draws (D,)."""
        difference = one[0] - other[0]
        return {
            "difference": as_number(difference),
            "interval": self._ends(one[1] - other[1]),
            "relative": as_number(difference / other[0] if other[0] else np.nan),
        }

    def _ends(self, draws_D: Array) -> list[float] | None:
        return between(draws_D, self._bootstrap.percentiles)

    def _at(self, table: str, label: str, variable: str) -> dict[str, Any]:
        """The entries of one variable by lead time; made where there is none."""
        found: dict[str, Any] = self._tables.setdefault(table, {}).setdefault(label, {}).setdefault(variable, {})
        return found


class _LeadDraws:
    """The scores of one label at one lead time: over all forecasts, and over those of each draw."""

    def __init__(self, sums: EnsembleSums, draws_DN: Array, metrics: Sequence[Metric[ForecastMeans]]) -> None:
        self.series, self.variables, self._members = sums.series, sums.variables, sums.members
        self.weights = (np.ones((1, draws_DN.shape[1])), draws_DN)
        self.values, self.draws = (compute_metrics(metrics, self.series, weight) for weight in self.weights)
        self.energy_values, self.energy_draws = (
            compute_metrics(ENERGY_METRICS.values(), self.series, weight) for weight in self.weights
        )

    def same(self, score: str) -> str:
        """What a score is compared with here: of one member the score as it is, which needs no correction for M."""
        return score.removeprefix("fair_").removeprefix("unbiased_") if self._members == 1 else score


def _numbers(values_R: Array) -> list[float | None]:
    return [as_number(value) for value in values_R]
