"""Statistics over the members of an ensemble: how a CF file describes them, and their fields.

Dimensions: M members · O variables · K quantiles or thresholds · H, W grid.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from climax_hpc.config.ensemble_output import EnsembleOutputConfig

_NO_STATE = {"cmip6_variable_id": None}
"""Of what is not CMIP6's variable: a spread is no `tas`. CF's standard name stays, and the cell method changes what it
names (CF 7.3); it has no modifier for standard deviations."""
_Field = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Members (M, H, W) -> a statistic (H, W), or several (K, H, W); missing where a member is missing."""


@dataclass(frozen=True, kw_only=True)
class StatisticAxis:
    """The dimension of a statistic that has several values, and its coordinate."""

    name: str
    values: Sequence[float]
    attributes: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class MemberStatistic:
    """One variable of a file: a statistic of a forecast variable over the members."""

    name: str
    axis: StatisticAxis | None
    """None for a single value."""
    attributes: dict[str, Any]
    """Those that differ from the variable's; None removes one."""
    method: str
    """CF's cell method over the members; empty where CF has none."""
    of_members: _Field

    def fields(self, members_MHW: NDArray[Any]) -> Iterator[tuple[tuple[int, ...], NDArray[np.float64]]]:
        """Index along the axis, if there is one, and field (H, W)."""
        found = self.of_members(members_MHW.astype(np.float64))
        if self.axis is None:
            yield (), found
        else:
            yield from (((k,), field_HW) for k, field_HW in enumerate(found))


def member_statistics(
    output: EnsembleOutputConfig, name: str, about: dict[str, Any], members: int
) -> Iterator[MemberStatistic]:
    """The statistics of a registry variable with these attributes that the output asks for."""
    long_name = about["long_name"]
    for kind in output.statistics:
        method, text, of_members = _SIMPLE[kind]
        changed: dict[str, Any] = {"long_name": f"{long_name}, {text.format(members=members, divisor=members - 1)}"}
        if kind != "mean":
            changed |= _NO_STATE
        if kind == "spread" and "units_metadata" in about:
            changed["units_metadata"] = "temperature: difference"
        yield MemberStatistic(
            name=f"{name}_{kind}", axis=None, attributes=changed, method=method, of_members=of_members
        )
    if output.quantiles:
        yield _quantiles(name, long_name, output.quantiles, members)
    if thresholds := output.exceedance.get(name):
        yield _exceedance(name, about, thresholds, members)


_SIMPLE: dict[str, tuple[str, str, _Field]] = {
    "mean": ("mean", "mean of {members} members", lambda members_MHW: members_MHW.mean(axis=0)),
    "spread": (
        "standard_deviation",
        "standard deviation of {members} members (divisor {divisor})",
        lambda members_MHW: members_MHW.std(axis=0, ddof=1),
    ),
    "minimum": ("minimum", "minimum of {members} members", lambda members_MHW: members_MHW.min(axis=0)),
    "maximum": ("maximum", "maximum of {members} members", lambda members_MHW: members_MHW.max(axis=0)),
}
"""Name in the config -> CF's cell method, what is said of it, and how it is computed."""


def _quantiles(name: str, long_name: str, shares: Sequence[float], members: int) -> MemberStatistic:
    about = {"long_name": "quantile of the members", "units": "1"}
    return MemberStatistic(
        name=f"{name}_quantile",
        axis=StatisticAxis(name="quantile", values=shares, attributes=about),
        attributes={"long_name": f"{long_name}, quantiles of {members} members, interpolated linearly between them"}
        | _NO_STATE,
        method="",
        of_members=lambda members_MHW: np.quantile(members_MHW, shares, axis=0),
    )


def _exceedance(name: str, about: dict[str, Any], thresholds: Sequence[float], members: int) -> MemberStatistic:
    long_name = about["long_name"]
    axis = StatisticAxis(
        name=f"threshold_of_{name}",
        values=thresholds,
        attributes=about | {"long_name": f"threshold of {long_name}"} | _NO_STATE,
    )
    return MemberStatistic(
        name=f"probability_of_{name}_above_threshold",
        axis=axis,
        attributes={
            "standard_name": None,
            "long_name": f"probability that {long_name} exceeds the threshold: share of {members} members above it",
            "units": "1",
            "units_metadata": None,
        }
        | _NO_STATE,
        method="mean",
        of_members=lambda members_MHW: np.stack([_share_above(members_MHW, limit) for limit in thresholds]),
    )


def _share_above(members_MHW: NDArray[np.float64], threshold: float) -> NDArray[np.float64]:
    return np.where(np.isnan(members_MHW).any(axis=0), np.nan, (members_MHW > threshold).mean(axis=0))


class StatisticsWriter(Protocol):
    """Stores members and their statistics; the writers of files and of memory do."""

    def write(self, place: int, lead: int, member: int, fields_OHW: NDArray[Any]) -> None:
        """Store the fields of one member."""
        ...

    def write_statistics(self, place: int, lead: int, members_MOHW: NDArray[np.float32]) -> None:
        """Store the statistics of all members of one start and lead time."""
        ...


class MemberGatherer:
    """Passes members on, and the statistics of all of them when the last one of a start and lead time is there.

    Members are rounded to float32 first, so that the statistics are those of the members in the file.
    """

    def __init__(self, writer: StatisticsWriter, members: int, *, keep_members: bool) -> None:
        self._writer, self._members, self._keep = writer, members, keep_members
        self._waiting: dict[tuple[int, int], list[NDArray[np.float32] | None]] = {}
        self.most_waiting = 0
        """Largest number of fields (O, H, W) that were held at a time."""

    def write(self, place: int, lead: int, member: int, fields_OHW: NDArray[Any]) -> None:
        """Take the fields of one member."""
        if self._keep:
            self._writer.write(place, lead, member, fields_OHW)
        found = self._waiting.setdefault((place, lead), [None] * self._members)
        found[member] = fields_OHW.astype(np.float32)
        held = sum(entry is not None for entries in self._waiting.values() for entry in entries)
        self.most_waiting = max(self.most_waiting, held)
        there = [entry for entry in found if entry is not None]
        if len(there) == self._members:
            del self._waiting[place, lead]
            self._writer.write_statistics(place, lead, np.stack(there))
