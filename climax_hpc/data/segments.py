"""Segments: contiguous time steps of a source, without a gap."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Contiguous time steps, without a gap, in time indices of their source."""

    first: int
    steps: int


def overlap(some: Sequence[Segment], others: Sequence[Segment]) -> bool:
    """True where some time step lies in both."""
    return any(a.first < b.first + b.steps and b.first < a.first + a.steps for a in some for b in others)
