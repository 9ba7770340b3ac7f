"""All that is summed for one model at one lead time: scores of the globe and of regions, and spectra.

Dimensions: B forecasts · O variables · H, W grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from climax_hpc.evaluation.metrics import Array, ScoreSums, Truth
from climax_hpc.evaluation.spectra import SpectrumSums
from climax_hpc.fields.grid import Grid
from climax_hpc.fields.regions import Cells, cut, region_indices, region_of


def cells_of(grid: Grid, regions: Sequence[str]) -> dict[str, Cells]:
    """Rows and columns of named regions, in either order of latitudes and over any meridian.

    Raises:
        UserError: no such region, or one smaller than two cells.
    """
    return {name: region_indices(grid, region_of(name)) for name in regions}


@dataclass(frozen=True, kw_only=True, eq=False)
class AccumulatorPlan:
    """What to sum beside the scores of the globe."""

    regions: Mapping[str, Cells]
    lat: Array
    weight_H: Array
    spectra: bool = False

    def start(self, variables: Sequence[str]) -> "Accumulator":
        """An empty tally."""
        return Accumulator(variables, self)


class Accumulator:
    """Sums over the forecasts of one model at one lead time; tallies of parts of a test set add up."""

    def __init__(self, variables: Sequence[str], plan: AccumulatorPlan) -> None:
        self.globe = ScoreSums(variables)
        self.regions = {name: ScoreSums(variables) for name in plan.regions}
        self.spectrum = SpectrumSums(variables, plan.lat, plan.weight_H) if plan.spectra else None
        self._cells = plan.regions

    def add(self, forecast_BOHW: Array, against: Truth) -> None:
        """Take in a batch of forecasts in physical units."""
        self.globe.add(forecast_BOHW, against)
        for name, cells in self._cells.items():
            self.regions[name].add(cut(forecast_BOHW, cells), within(against, cells))
        if self.spectrum:
            self.spectrum.add(np.where(against.valid_BOHW, forecast_BOHW, np.nan))

    def __iadd__(self, other: "Accumulator") -> "Accumulator":
        self.globe += other.globe
        for name, sums in other.regions.items():
            self.regions[name] += sums
        if self.spectrum and other.spectrum:
            self.spectrum += other.spectrum
        return self


def within(truth: Truth, cells: Cells) -> Truth:
    """The truth in a region."""
    return Truth(
        truth_BOHW=cut(truth.truth_BOHW, cells),
        climatology_BOHW=cut(truth.climatology_BOHW, cells),
        valid_BOHW=cut(truth.valid_BOHW, cells),
        weight_H=truth.weight_H[cells[0]],
    )
