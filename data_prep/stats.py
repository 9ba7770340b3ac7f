"""Mean, spread and range per channel as mergeable moments, the same bits for any split of the work over ranks.

Every time step and cell counts the same, as in ClimaX (no area weights); missing values do not count. Moments of one
work unit are made block by block, those of a source merged in unit order (Chan, Golub, LeVeque 1983, eq. 2.1).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from climax_hpc.errors import UserError

Array = NDArray[np.float64]
_CONSTANT = 1e-9  # range over magnitude below which a field is constant up to rounding of the regridding


@dataclass(frozen=True)
class Moments:
    """Moments of one channel in physical units."""

    count: int = 0
    """Values that are not missing."""
    mean: float = 0.0
    m2: float = 0.0
    """Sum of squared deviations from the mean."""
    low: float = float("inf")
    high: float = float("-inf")
    missing: int = 0

    @property
    def std(self) -> float:
        """Standard deviation (of the values, not of a sample)."""
        return float(np.sqrt(self.m2 / self.count)) if self.count else float("nan")

    @property
    def missing_share(self) -> float:
        """Missing values over all values."""
        total = self.count + self.missing
        return self.missing / total if total else 0.0

    def merge(self, other: "Moments") -> "Moments":
        """Moments of both together."""
        if not self.count or not other.count:
            base, missing = (self if self.count else other), self.missing + other.missing
            return Moments(base.count, base.mean, base.m2, base.low, base.high, missing)
        count = self.count + other.count
        delta = other.mean - self.mean
        return Moments(
            count=count,
            mean=self.mean + delta * (other.count / count),
            m2=self.m2 + other.m2 + delta * delta * (self.count / count * other.count),
            low=min(self.low, other.low),
            high=max(self.high, other.high),
            missing=self.missing + other.missing,
        )


def moments_of(values: Array) -> Moments:
    """Moments of an array of any shape; NaN = missing."""
    flat = np.ascontiguousarray(values).ravel()
    valid = flat[~np.isnan(flat)]
    if not len(valid):
        return Moments(missing=len(flat))
    mean = float(valid.mean())
    deviation = valid - mean
    m2 = float(np.square(deviation).sum())
    return Moments(len(valid), mean, m2, float(valid.min()), float(valid.max()), len(flat) - len(valid))


def merge_all(parts: Iterable[Moments]) -> Moments:
    """Moments of all parts, merged in the order given."""
    total = Moments()
    for part in parts:
        total = total.merge(part)
    return total


def check_spread(moments: Moments, channel: str, source: str, file: str) -> None:
    """Refuse a channel that cannot be scaled.

    Raises:
        UserError: all values missing; constant.
    """
    mend = f"leave it out with `variables` or choose another train_period (file: {file})"
    if not moments.count:
        raise UserError(f"{file}: {channel} of {source} is missing (NaN) everywhere in the training period; {mend}")
    if moments.high - moments.low <= _CONSTANT * max(abs(moments.high), abs(moments.low)):
        raise UserError(
            f"{file}: {channel} of {source} is constant ({moments.low:g}) in the training period, so it has no spread "
            f"to scale by; {mend}"
        )
