"""Mean, standard deviation and range per channel as mergeable moments, the same bits for any split of the time steps.

Every time step and cell has the same weight, as in ClimaX (no area weights); missing values are left out. Each time
step is summed separately in a fixed order; sums over time steps are exact rational numbers, rounded once at the end.
So the result does not depend on the number of ranks, the block size or the length of a shard.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.errors import UserError

Array = NDArray[np.float64]
_CONSTANT = 5e-7  # range over magnitude below which a field is constant up to the rounding of float32


@dataclass(frozen=True)
class Moments:
    """Moments of one channel in registry units."""

    count: int = 0
    """Values that are not missing."""
    total: Fraction = Fraction(0)
    """Sum of the values."""
    squares: Fraction = Fraction(0)
    """Sum of their squares."""
    low: float = float("inf")
    high: float = float("-inf")
    missing: int = 0

    @property
    def mean(self) -> float:
        """Mean; NaN if all values are missing."""
        return float(self.total / self.count) if self.count else float("nan")

    @property
    def std(self) -> float:
        """Population standard deviation; NaN if all values are missing."""
        if not self.count:
            return float("nan")
        return float(np.sqrt(float(self.squares / self.count - (self.total / self.count) ** 2)))

    @property
    def is_constant(self) -> bool:
        """True if the values do not differ beyond rounding."""
        return self.count > 0 and self.high - self.low <= _CONSTANT * max(abs(self.high), abs(self.low))

    @property
    def scale(self) -> float:
        """Divisor of the z-scores: the standard deviation, or 1 for a constant."""
        return 1.0 if self.is_constant else self.std

    @property
    def missing_share(self) -> float:
        """Missing values over all values."""
        total = self.count + self.missing
        return self.missing / total if total else 0.0

    def merge(self, other: "Moments") -> "Moments":
        """Moments of the union; the order does not matter."""
        return Moments(
            count=self.count + other.count,
            total=self.total + other.total,
            squares=self.squares + other.squares,
            low=min(self.low, other.low),
            high=max(self.high, other.high),
            missing=self.missing + other.missing,
        )

    def to_json(self) -> dict[str, Any]:
        """Exact JSON form."""
        exact = {key: list(getattr(self, key).as_integer_ratio()) for key in ("total", "squares")}
        return {"count": self.count, "missing": self.missing, "low": self.low, "high": self.high, **exact}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Moments":
        """The inverse of `to_json`."""
        return cls(**{**content, "total": Fraction(*content["total"]), "squares": Fraction(*content["squares"])})


def moments_of(fields: NDArray[Any]) -> Moments:
    """Moments of the time steps of one channel (T, H, W); NaN = missing.

    A step of n values contributes by its mean m and its sum of squared deviations d: n m to the total and d + n m² to
    the squares, both exact sums.
    """
    steps = np.ascontiguousarray(fields, np.float64).reshape(len(fields), int(np.prod(fields.shape[1:])))
    incomplete = np.isnan(steps).any(axis=1)
    low, high, missing = float("inf"), float("-inf"), 0
    total = squares = Fraction(0)
    for values in (steps[~incomplete], *(step[~np.isnan(step)][None] for step in steps[incomplete])):
        missing += steps.shape[1] - values.shape[1]
        if values.size:
            mean = values.mean(axis=1)
            spread = np.square(values - mean[:, None]).sum(axis=1)
            exact = [Fraction(m) for m in mean.tolist()]
            total += values.shape[1] * sum(exact, Fraction(0))
            squares += sum((Fraction(d) + values.shape[1] * m * m for d, m in zip(spread.tolist(), exact, strict=True)))
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    return Moments(steps.size - missing, total, squares, low, high, missing)


def merge_all(parts: Iterable[Moments]) -> Moments:
    """Moments of the union of all parts."""
    total = Moments()
    for part in parts:
        total = total.merge(part)
    return total


def check_spread(moments: Moments, channel: str, source: str, file: str, allow_constant: bool = False) -> None:
    """Refuse a channel that cannot be normalised.

    Raises:
        UserError: all values are missing; they are constant, unless `allow_constant`.
    """
    fix = f"leave it out with `variables`, or choose another train_period (file: {file})"
    if not moments.count:
        raise UserError(f"{file}: {channel} of {source} is missing (NaN) in the whole training period; {fix}")
    if moments.is_constant and not allow_constant:
        raise UserError(
            f"{file}: {channel} of {source} is constant ({moments.low:g}) in the training period, so its standard "
            f"deviation is 0; {fix}, or set allow_constant: true"
        )
