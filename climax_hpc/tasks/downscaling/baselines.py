"""Baselines of downscaling: the coarse field, interpolated.

To add a baseline, add an entry to `BASELINES` and its class, a `models.Downscaler` (with `learn` if it is fitted).

Dimensions: B samples · C coarse channels · O output variables · h, w coarse grid · H, W fine grid. All fields are in
physical units and float64.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from climax_hpc.data.packed_source import PackedSource
from climax_hpc.fields.grid import Array
from climax_hpc.fields.variables import lookup
from climax_hpc.tasks.downscaling.coarse_input import CoarseFields
from climax_hpc.tasks.downscaling.grids import Interpolator
from climax_hpc.tasks.downscaling.models import Downscaler, physically_possible


@runtime_checkable
class LearnedBaseline(Protocol):
    """A baseline that is fitted on the pairs of the training period."""

    def learn(self, coarse: CoarseFields, truth_BOHW: Array) -> None:
        """Add pairs of the training period."""
        ...


class InterpolationBaseline:
    """The coarse field, interpolated."""

    def __init__(self, coarse: PackedSource, fine: PackedSource, variables: Sequence[str], method: str) -> None:
        self.variables = tuple(variables)
        self._places = [coarse.channels.index(name) for name in variables]
        self._interpolate = Interpolator(
            coarse.grid, fine.grid, method=method, dtype=torch.float64, device=torch.device("cpu")
        )

    def fine(self, coarse: CoarseFields) -> Array:
        """Interpolated fields (B, O, H, W)."""
        fields_BOHW = self._interpolate(torch.from_numpy(coarse.fields_BChw[:, self._places])).numpy()
        return physically_possible(fields_BOHW, self.variables)


class BiasCorrectedInterpolation:
    """Bilinear interpolation with the mean and the variance of every cell corrected on the training period.

    o + (σ_truth/σ_interpolated)·(x - x̄) per cell, moments over the pairs of the training period (linear scaling, for
    example Maraun & Widmann 2018, chapter 11); precipitation is multiplied by the ratio of the means instead, which
    keeps dry days dry.
    """

    def __init__(self, interpolated: InterpolationBaseline) -> None:
        self.variables, self._interpolated = interpolated.variables, interpolated
        self._sums = [np.zeros(0)] * 5

    def learn(self, coarse: CoarseFields, truth_BOHW: Array) -> None:
        """Add pairs of the training period."""
        x_BOHW = self._interpolated.fine(coarse)
        valid_BOHW = np.isfinite(x_BOHW) & np.isfinite(truth_BOHW)
        x_BOHW, y_BOHW = (np.where(valid_BOHW, a, 0.0) for a in (x_BOHW, truth_BOHW))
        terms = [a.sum(axis=0) for a in (valid_BOHW.astype(np.float64), x_BOHW, y_BOHW, x_BOHW**2, y_BOHW**2)]
        self._sums = [term if not total.size else total + term for total, term in zip(self._sums, terms, strict=True)]

    def fine(self, coarse: CoarseFields) -> Array:
        """Corrected fields (B, O, H, W); NaN in cells without any pair in the training period."""
        count, x, y, xx, yy = self._sums
        with np.errstate(invalid="ignore", divide="ignore"):
            x, y, xx, yy = (total / count for total in (x, y, xx, yy))
            ratio = np.sqrt(np.maximum(yy - y**2, 0.0) / np.maximum(xx - x**2, 1e-30))
            fields_BOHW = y + ratio * (self._interpolated.fine(coarse) - x)
            for place, name in enumerate(self.variables):
                if lookup(name).standard_name == "precipitation_flux":
                    scale = y[place] / np.maximum(x[place], 1e-30)
                    fields_BOHW[:, place] = scale * self._interpolated.fine(coarse)[:, place]
        return physically_possible(fields_BOHW, self.variables)


@dataclass(frozen=True, kw_only=True)
class DownscalingBaseline:
    """An entry of `BASELINES`."""

    description: str
    """What it gives, as the report says it."""
    build: Callable[[PackedSource, PackedSource, Sequence[str]], Downscaler]
    """Coarse source, fine source and variables -> baseline."""


BASELINES = {
    "bilinear": DownscalingBaseline(
        description="the coarse field, interpolated bilinearly",
        build=lambda coarse, fine, variables: InterpolationBaseline(coarse, fine, variables, "bilinear"),
    ),
    "nearest": DownscalingBaseline(
        description="the coarse field of the nearest cell",
        build=lambda coarse, fine, variables: InterpolationBaseline(coarse, fine, variables, "nearest"),
    ),
    "bilinear, bias-corrected": DownscalingBaseline(
        description="bilinear with mean and variance of every cell corrected on the training period",
        build=lambda coarse, fine, variables: BiasCorrectedInterpolation(
            InterpolationBaseline(coarse, fine, variables, "bilinear")
        ),
    ),
}
"""Label -> baseline, in the order of tables."""
