"""Which rank the others wait for, from what the ranks reported.

Once a rank has made no progress for `timeout` seconds (four times that until its second step), it counts as hung. In a
collective all ranks stop when one hangs; the hung one has passed the fewest places, or gives no life sign at all
(stopped, or dead without closing its connections). Ranks that wait for the others' parts of a checkpoint are not it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any

LONGEST_TEXT = 200
"""Characters of a text in a report."""
_LARGEST = 1 << 31  # number of a report, place or process
_ROOM = 1000  # bytes of rows in a datagram: with the sender's own report no network has to split it
_STARTING = 2  # places; up to the first step kernels are compiled and caches are cold
_START_FACTOR = 4
Hung = tuple[int, str]
"""A hung rank, with the reason."""


@dataclass(frozen=True, kw_only=True)
class RankReport:
    """What a rank sends."""

    life: int
    """Number of this report."""
    places: int
    """Places that the training loop has passed."""
    place: str
    """The last of them."""
    part_written: int
    """1 if it has written its part of a checkpoint and waits for those of the others; else 0."""
    host: str
    process: int

    @classmethod
    def from_message(cls, content: Any) -> "RankReport":
        """The report in a message.

        Raises:
            KeyError, TypeError, ValueError: a value is absent, or of another type or size.
        """
        values = {field.name: content[field.name] for field in fields(cls)}
        for field in fields(cls):
            value = values[field.name]
            number = field.type is int and type(value) is int and 0 <= value < _LARGEST
            text = field.type is str and isinstance(value, str) and len(value) <= LONGEST_TEXT
            if not (number or text):
                raise ValueError(f"{field.name}: {str(value)[:100]!r}")
        return cls(**values)


_ROW = ("life", "places", "place", "part_written", "process")
Row = list[Any]
"""A rank and its report in short, without the host."""


def to_row(rank: int, report: RankReport) -> Row:
    """The report of a rank that another one of its node passes on."""
    return [rank, *(getattr(report, name) for name in _ROW)]


def from_row(row: Any, host: str) -> tuple[Any, RankReport]:
    """The rank, not checked, and its report.

    Raises:
        TypeError, ValueError: not a row, or a value of another type or size.
    """
    rank, *values = row
    return rank, RankReport.from_message(dict(zip(_ROW, values, strict=True)) | {"host": host})


def in_datagrams(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows in parts that fit into one datagram each, with a report; one part at least."""
    parts: list[list[Row]] = [[]]
    room = _ROOM
    for row in rows:
        length = len(json.dumps(row))
        if length > room:
            parts.append([])
            room = _ROOM
        parts[-1].append(row)
        room -= length
    return parts


@dataclass(frozen=True, kw_only=True)
class RankObservation:
    """The last report of a rank, and when life and place last changed, on the watcher's clock [s]."""

    report: RankReport
    life_at: float
    place_at: float


def find_hung(seen: dict[int, RankObservation], now: float, timeout: float) -> Hung | None:
    """The rank that the others wait for, with the reason; None if there is none.

    Ranks without a life sign come first, then, of those that make no progress, those whose part of a checkpoint is not
    written, and of these the one that passed the fewest places.
    """
    silent = {rank: s for rank, s in seen.items() if now - s.life_at > timeout}
    if silent:
        rank = min(silent, key=lambda r: (silent[r].life_at, r))
        last = silent[rank]
        return rank, f"gives no sign of life since {_clock(now - last.life_at)}; it was last in {last.report.place}"
    still = {rank: s for rank, s in seen.items() if now - s.place_at > timeout * _patience(s.report)}
    if still:
        rank = min(still, key=lambda r: (still[r].report.part_written, still[r].report.places, r))
        return rank, f"is stuck in {still[rank].report.place} since {_clock(now - still[rank].place_at)}"
    return None


def longest_wait(timeout: float) -> float:
    """Time [s] that ranks may wait for each other until the heartbeat has reported why; twice what it takes."""
    return 2 * _START_FACTOR * timeout


def _patience(report: RankReport) -> int:
    return _START_FACTOR if report.places < _STARTING else 1


def _clock(ago: float) -> str:
    when = datetime.now(UTC) - timedelta(seconds=ago)
    return f"{when:%H:%M:%S} UTC ({ago:.0f} s)"
