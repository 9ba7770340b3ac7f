"""The divergence of forecasts from the true distribution as evaluation.json holds it, filled lead time by lead time.

divergence.scores[label][variable][lead] = {metric: value} (`divergence.DIVERGENCE`), .intervals likewise;
.comparison: CRPS minus the reference's; .wavenumbers[label][variable][lead] = {ratio, interval} by zonal wavenumber.
Dimensions: N starts · R draws · O variables · K wavenumbers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.evaluation.bootstrap import Bootstrap, between, draw_blocks, runs_of, wilks_block
from climax_hpc.evaluation.divergence import DIVERGENCE, DivergenceSums, mean_spectra
from climax_hpc.evaluation.metrics import Array, as_number, compute_metrics
from climax_hpc.evaluation.output import lead_key

DIVERGENCE_KEY = "divergence"
"""Key in evaluation.json."""


class DivergenceTable:
    """Scores, intervals and ratios by wavenumber of all labels, on the same starts and draws."""

    def __init__(self, bootstrap: Bootstrap, reference: str | None = None) -> None:
        """`reference`: label that the CRPS of the others is compared with; None, or one that is not scored: none."""
        self._bootstrap, self._reference = bootstrap, reference
        self._starts: dict[str, int] = {}
        self._blocks: dict[str, int] = {}
        self._tables: dict[str, Any] = {"scores": {}, "wavenumbers": {}}

    def add(self, lead_hours: float, starts: Sequence[int], sums: Mapping[str, DivergenceSums]) -> None:
        """Add one lead time; `starts`: number (N,) of each start, ascending, where successive ones differ by 1."""
        key, runs = lead_key(lead_hours), runs_of(starts)
        block = self._bootstrap.block_steps or _block(sums, runs)
        self._starts[key], self._blocks[key] = len(starts), block
        weights = np.ones((1, len(starts))), draw_blocks(runs, block, self._bootstrap.resamples)
        metrics = DIVERGENCE.values()
        values = {label: [compute_metrics(metrics, one.series, w) for w in weights] for label, one in sums.items()}
        for label, one in sums.items():
            spectra = [mean_spectra(one.spectra, weight_RN)["ratio"] for weight_RN in weights]
            for place, variable in enumerate(one.variables):
                self._add_scores(key, label, variable, [{n: v[:, place] for n, v in t.items()} for t in values[label]])
                self._add_ratio(key, label, variable, [ratio_ROK[:, place] for ratio_ROK in spectra])
        if self._reference in sums and self._bootstrap.resamples:
            self._compare(key, sums, {label: [table["crps"] for table in both] for label, both in values.items()})

    def details(self, members: int, description: Mapping[str, object]) -> dict[str, Any]:
        """What evaluation.json holds; `members`: of the truth; `description`: of its sources."""
        intervals = {"block_starts": self._blocks} if self._bootstrap.resamples else {}
        found = {"members": members, **description, "starts": self._starts, **intervals, **self._tables}
        return {DIVERGENCE_KEY: found}

    def _add_scores(self, key: str, label: str, variable: str, tables: Sequence[Mapping[str, Array]]) -> None:
        whole, draws = tables
        self._at("scores", label, variable)[key] = {name: as_number(value_1[0]) for name, value_1 in whole.items()}
        if self._bootstrap.resamples:
            ends = {name: between(draws_R, self._bootstrap.percentiles) for name, draws_R in draws.items()}
            self._at("intervals", label, variable)[key] = ends

    def _add_ratio(self, key: str, label: str, variable: str, ratios: Sequence[Array]) -> None:
        whole_1K, draws_RK = ratios
        found: dict[str, Any] = {"ratio": [as_number(value) for value in whole_1K[0]]}
        if self._bootstrap.resamples:
            found["interval"] = [between(draws_R, self._bootstrap.percentiles) for draws_R in draws_RK.T]
        self._at("wavenumbers", label, variable)[key] = found

    def _compare(self, key: str, sums: Mapping[str, DivergenceSums], crps: Mapping[str, Sequence[Array]]) -> None:
        assert self._reference is not None
        names = sums[self._reference].variables
        for label, one in sums.items():
            for place, variable in enumerate(one.variables):
                if label == self._reference or variable not in names:
                    continue
                other = names.index(variable)
                (whole, draws), (its_whole, its_draws) = crps[label], crps[self._reference]
                value, reference = whole[0, place], its_whole[0, other]
                self._at("comparison", self._reference, label, variable)[key] = {
                    "crps": as_number(value - reference),
                    "interval": between(draws[:, place] - its_draws[:, other], self._bootstrap.percentiles),
                    "relative": as_number((value - reference) / reference if reference else np.nan),
                }

    def _at(self, *keys: str) -> dict[str, Any]:
        table = self._tables
        for key in keys:
            table = table.setdefault(key, {})
        return table


def _block(sums: Mapping[str, DivergenceSums], runs: Sequence[int]) -> int:
    """Successive starts of a block, after Wilks (1997), by the forecast whose errors are correlated longest."""
    if sum(runs) < 2:
        return 1
    return max(
        (
            wilks_block(column_N, runs)
            for one in sums.values()
            for column_N in one.series["square_error"].T
            if np.isfinite(column_N).any()
        ),
        default=1,
    )


def numbered(time_indices: Sequence[int]) -> list[int]:
    """Numbers of starts, where those that lie the smallest distance apart are successive."""
    steps: NDArray[np.int64] = np.asarray(time_indices, np.int64)
    if len(steps) < 2:
        return [0] * len(steps)
    return [int(one) for one in (steps - steps[0]) // np.diff(steps).min()]
