"""Detects hung ranks and ends all ranks with a stack dump each, so that the allocation is not wasted.

Every rank counts the places that its training loop passes. A thread sends that count and a count of
life signs to rank 0, which replies with its own. Rank 0 watches all ranks; all others watch whether rank 0 is alive,
so that some rank can always report. In a collective all ranks stop when one hangs; the hung one has passed the fewest
places, or gives no life sign at all (stopped, or dead without closing its connections).

Once a rank has made no progress for `timeout` seconds (four times that until its second step), the watcher informs all
ranks: each writes RUN/stacks/rank_00000.txt and exits with EXIT_RANK_LOST. Messages are signed UDP datagrams, because
neither a stopped peer nor a hung file system can block those (torch's TCPStore was measured to wait forever for a
stopped server).
"""

import contextlib
import faulthandler
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from climax_hpc.distributed.datagrams import Address, Datagrams
from climax_hpc.distributed.launcher import World
from climax_hpc.distributed.signals import EXIT_RANK_LOST
from climax_hpc.errors import print_error

_LONGEST_TEXT, _LARGEST = 200, 1 << 31  # characters; number of a report, place or process
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
            text = field.type is str and isinstance(value, str) and len(value) <= _LONGEST_TEXT
            if not (number or text):
                raise ValueError(f"{field.name}: {str(value)[:100]!r}")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class RankObservation:
    """The last report of a rank, and when life and place last changed, on the watcher's clock [s]."""

    report: RankReport
    life_at: float
    place_at: float


def find_hung(seen: dict[int, RankObservation], now: float, timeout: float) -> Hung | None:
    """The rank that the others wait for, with the reason; None if there is none.

    Ranks without a life sign come first, then, of those that make no progress, the one that passed the fewest places.
    """
    silent = {rank: s for rank, s in seen.items() if now - s.life_at > timeout}
    if silent:
        rank = min(silent, key=lambda r: (silent[r].life_at, r))
        last = silent[rank]
        return rank, f"gives no sign of life since {_clock(now - last.life_at)}; it was last in {last.report.place}"
    still = {rank: s for rank, s in seen.items() if now - s.place_at > timeout * _patience(s.report)}
    if still:
        rank = min(still, key=lambda r: (still[r].report.places, r))
        return rank, f"is stuck in {still[rank].report.place} since {_clock(now - still[rank].place_at)}"
    return None


def _patience(report: RankReport) -> int:
    return _START_FACTOR if report.places < _STARTING else 1


def _warn(text: str) -> None:
    print(f"climax-hpc: warning: {text}", file=sys.stderr, flush=True)


def _clock(ago: float) -> str:
    when = datetime.now(UTC) - timedelta(seconds=ago)
    return f"{when:%H:%M:%S} UTC ({ago:.0f} s)"


class Heartbeat:
    """Watches the ranks of a run from a thread; `timeout` 0 disables it. Construction is a collective."""

    def __init__(self, world: World, run_folder: Path, *, timeout: float, on_abort: Callable[[str], None]) -> None:
        """Args: `on_abort` receives the reason, in the thread of the reporting rank, just before the process ends."""
        self._world, self._timeout, self._on_abort = world, timeout, on_abort
        self._stacks = run_folder / "stacks"
        self._places, self._place, self._life = 0, "start-up", 0
        self._host = socket.gethostname()[:_LONGEST_TEXT]
        self._seen: dict[int, RankObservation] = {}
        self._addresses: dict[int, Address] = {}
        self._stop = threading.Event()
        self.ending = False
        """True once a rank was found hung: this process ends within seconds."""
        self._interval = min(max(timeout / 4, 0.2), 10.0)
        self._datagrams = Datagrams(timeout=self._interval / 4)
        self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        if self._timeout:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._timeout:
            self._datagrams.wake()
            self._thread.join()
        self._datagrams.close()

    def at(self, place: str) -> None:
        """Record that the training loop passes a place; all ranks call this at the same places."""
        self._places, self._place = self._places + 1, place[:_LONGEST_TEXT]

    def _watch(self) -> None:
        started = awake = time.monotonic()
        sent_at, warned, failed = -self._interval, False, False
        while not self._stop.is_set():
            hung = None
            try:
                if awake - sent_at >= self._interval:
                    sent_at = awake
                    self._beat()
                hung = self._receive()
            except Exception as error:  # a watcher that ends would leave every later hang unseen
                if not failed:
                    _warn(
                        f"a heartbeat could not be read or sent ({type(error).__name__}: {str(error)[:_LONGEST_TEXT]})"
                    )
                failed = True
            now = time.monotonic()
            self._discount(now - awake)
            awake = now
            hung = hung or self._find_hung(now)
            if hung and not self._stop.is_set():
                self._end(*hung)
            if self._world.is_first and not warned and now - started > self._timeout:
                warned = True
                self._warn_of_unheard()

    def _discount(self, pause: float) -> None:
        """Time in which this thread did not run (stopped process, busy interpreter) says nothing about other ranks."""
        if pause > 2 * self._interval:
            for rank, seen in self._seen.items():
                self._seen[rank] = replace(seen, life_at=seen.life_at + pause, place_at=seen.place_at + pause)

    def _warn_of_unheard(self) -> None:
        missing = [rank for rank in range(self._world.size) if rank not in self._seen]
        if missing:
            _warn(
                f"no heartbeat from ranks {', '.join(map(str, missing[:8]))}{' …' if len(missing) > 8 else ''} "
                f"({len(missing)} of {self._world.size}), so hangs there will not be detected: allow UDP between the "
                "nodes"
            )

    def _report(self) -> RankReport:
        self._life += 1
        return RankReport(life=self._life, places=self._places, place=self._place, host=self._host, process=os.getpid())

    def _beat(self) -> None:
        """Rank 0 records its own report; the others send theirs to rank 0."""
        if self._world.is_first:
            self._record(0, self._report())
        else:
            self._send(self._datagrams.first, report=vars(self._report()))

    def _receive(self) -> Hung | None:
        """Take one datagram, which rank 0 answers; the hung rank, if another rank found one."""
        received = self._datagrams.receive()
        if received is None:
            return None
        message, address = received
        rank = self._checked(message["rank"])
        if "abort" in message:
            hung, reason = message["abort"]
            return self._checked(hung), str(reason)
        self._record(rank, RankReport.from_message(message["report"]))
        if self._world.is_first:
            self._addresses[rank] = address
            self._send(address, report=vars(self._seen[0].report))
        return None

    def _checked(self, rank: Any) -> int:
        if type(rank) is not int or not 0 <= rank < self._world.size:
            raise ValueError(f"{str(rank)[:100]!r} is not a rank")
        return rank

    def _send(self, address: Address, **message: Any) -> None:
        self._datagrams.send(address, {"rank": self._world.rank} | message)

    def _record(self, rank: int, report: RankReport) -> None:
        now, before = time.monotonic(), self._seen.get(rank)
        if before and report.life < before.report.life:
            return  # overtaken on the way, or sent again by something else
        self._seen[rank] = RankObservation(
            report=report,
            life_at=before.life_at if before and before.report.life == report.life else now,
            place_at=before.place_at if before and before.report.places == report.places else now,
        )

    def _find_hung(self, now: float) -> Hung | None:
        """The hung rank, as far as this rank can tell."""
        if self._world.is_first:
            return find_hung(self._seen, now, self._timeout)
        if 0 not in self._seen:
            return None
        # Rank 0 knows more, so the others wait longer, and only for its life signs.
        alive = {0: RankObservation(report=self._seen[0].report, life_at=self._seen[0].life_at, place_at=now)}
        return find_hung(alive, now, self._timeout + 3 * self._interval)

    def _end(self, hung: int, reason: str) -> None:
        self.ending = True
        try:
            dumped = self._dump()
            # Rank 0 reports, or rank 1 where rank 0 is the one that hangs and gives no sign of life.
            silent = hung == 0 and not self._world.is_first
            if self._world.is_first or (silent and self._world.rank == 1):
                message = (
                    f"rank {hung} {reason}{dumped}; the last checkpoint is intact: start the same command again to "
                    "resume from it"
                )
                print_error(message)
                self._on_abort(message)
            if self._world.is_first:
                for address in 3 * list(self._addresses.values()):  # datagrams may be lost
                    self._send(address, abort=(hung, reason))
                self._wake(hung)
        finally:
            os._exit(EXIT_RANK_LOST)

    def _dump(self) -> str:
        """Write the stacks of all threads of this rank; returns where, as part of the message."""
        with contextlib.suppress(OSError):
            self._stacks.mkdir(parents=True, exist_ok=True)
            with (self._stacks / f"rank_{self._world.rank:05d}.txt").open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
            return f"; the stacks of all ranks are in {self._stacks}"
        return ""

    def _wake(self, rank: int) -> None:
        """Let a stopped process on this host continue, so that it reads the message, dumps its stack and ends."""
        report = self._seen[rank].report
        if report.host == self._host and report.process != os.getpid():
            with contextlib.suppress(OSError):
                os.kill(report.process, signal.SIGCONT)
            self._stop.wait(2 * self._interval)  # its connections break when this rank ends: let it dump first
