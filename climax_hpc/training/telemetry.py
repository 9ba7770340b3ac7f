"""How fast a run is and what holds it up: the figures of a logged step, in words too, and the rule for stragglers."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from climax_hpc.utils.formatting import readable_size
from climax_hpc.utils.typed_json import Count, Number

STRAGGLER_LAG = 0.2
"""A rank is a straggler where waiting for it makes steps longer by more than this share …"""
STRAGGLER_LOGS = 3
"""… at this many logged steps in a row."""


@dataclass(frozen=True, kw_only=True)
class Telemetry:
    """The figures of the steps since the last logged one; the names are those in metrics.jsonl and TensorBoard."""

    data_wait_share: Number
    """Share of the time that ranks waited for data, mean over ranks."""
    peak_memory_bytes: Number
    """Largest memory of any rank so far: tensors on its GPU, or its whole process on a CPU."""
    gradient_norm: Number | None = None
    """Norm of the mean gradient of the last step before clipping; None if it is not finite."""
    model_flop_per_second: Number | None = None
    """FLOP/s of all ranks together, without recomputation; None for networks whose FLOP are not known."""
    model_flop_utilisation: Number | None = None
    """Share of the devices' peak rate; None on processors and devices that are not in the table."""
    slowest_rank: Count | None = None
    """The rank that the others wait for; None with one rank."""
    slowest_rank_lag_seconds: Number | None = None
    """Time that it takes in a step before the ranks meet, above the median of the others [s]."""
    slowest_rank_lag_share: Number | None = None
    """The same as a share of a step without this wait."""

    def to_dict(self) -> dict[str, Any]:
        """The figures that are known, as plain JSON types."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def as_text(self) -> list[str]:
        """Lines for a terminal."""
        lines = []
        if self.model_flop_per_second is not None:
            of_peak = self.model_flop_utilisation
            share = "" if of_peak is None else f", {of_peak:.1%} of the devices' peak"
            lines.append(f"{self.model_flop_per_second / 1e12:.3g} TFLOP/s of the model{share}")
        lines.append(f"{self.data_wait_share:.1%} of the time waiting for data")
        if self.gradient_norm is not None:
            lines.append(f"gradient norm {self.gradient_norm:.4g}")
        lines.append(f"peak memory of a rank {readable_size(self.peak_memory_bytes)}")
        if self.slowest_rank is not None:
            lines.append(
                f"slowest rank {self.slowest_rank}, {(self.slowest_rank_lag_seconds or 0) * 1e3:.3g} ms a step behind "
                f"the others ({self.slowest_rank_lag_share or 0:.0%} of a step)"
            )
        return lines


@dataclass(frozen=True, kw_only=True)
class Lag:
    """The rank that the others wait for."""

    rank: int
    seconds: float
    """Per step."""
    share: float
    """Of a step without this wait."""


def lag_of(own_R: Sequence[float], step_seconds: float) -> Lag | None:
    """The slowest of several ranks; None for one.

    Args:
        own_R: seconds per step of each rank before the ranks meet.
        step_seconds: of a whole step.
    """
    if len(own_R) < 2:
        return None
    rank = max(range(len(own_R)), key=own_R.__getitem__)
    seconds = own_R[rank] - median(own for other, own in enumerate(own_R) if other != rank)
    rest = step_seconds - seconds
    return Lag(rank=rank, seconds=seconds, share=seconds / rest if rest > 0 else 0.0)


class StragglerWatch:
    """Finds a rank that is slow at several logged steps in a row."""

    def __init__(self) -> None:
        self._rank, self._count = -1, 0

    def is_new(self, lag: Lag | None) -> bool:
        """True once for each time that a rank becomes a straggler."""
        slow = lag.rank if lag and lag.share > STRAGGLER_LAG else -1
        self._count = self._count + 1 if slow == self._rank and slow >= 0 else int(slow >= 0)
        self._rank = slow
        return self._count == STRAGGLER_LOGS
