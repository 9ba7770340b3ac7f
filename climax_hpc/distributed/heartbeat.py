"""Detects hung ranks and ends all ranks with a stack dump each, so that the allocation is not wasted.

Every rank counts the places that its training loop passes. A thread sends that count and a count of
life signs to rank 0, which replies with its own. Rank 0 watches all ranks; all others watch whether rank 0 is alive,
so that some rank can always report. In a collective all ranks stop when one hangs; the hung one has passed the fewest
places, or gives no life sign at all (stopped, or dead without closing its connections).

Once a rank has made no progress for `timeout` seconds (four times that until its second step), the watcher informs all
ranks: each writes RUN/stacks/rank_00000.txt and exits with EXIT_RANK_LOST. Messages are UDP datagrams, because neither
a stopped peer nor a hung file system can block those (torch's TCPStore was measured to wait forever for a stopped
server).
"""

import contextlib
import faulthandler
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from climax_hpc.distributed import process_group
from climax_hpc.distributed.launcher import World
from climax_hpc.distributed.signals import EXIT_RANK_LOST
from climax_hpc.errors import print_error

_LONGEST_REPORT = 4096  # bytes
_STARTING = 2  # places; up to the first step kernels are compiled and caches are cold
_START_FACTOR = 4


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


@dataclass(frozen=True, kw_only=True)
class RankObservation:
    """The last report of a rank, and when life and place last changed, on the watcher's clock [s]."""

    report: RankReport
    life_at: float
    place_at: float


def find_hung(seen: dict[int, RankObservation], now: float, timeout: float) -> tuple[int, str] | None:
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
        self._host = socket.gethostname()
        self._seen: dict[int, RankObservation] = {}
        self._addresses: dict[int, Any] = {}
        self._stop = threading.Event()
        self.ending = False
        """True once a rank was found hung: this process ends within seconds."""
        self._interval = min(max(timeout / 4, 0.2), 10.0)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(self._interval / 4)
        self._socket.bind(("", 0))
        self._first_port, self._token = process_group.from_first(
            lambda: (self._socket.getsockname()[1], secrets.token_hex(8))
        )
        self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        if self._timeout:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._timeout:
            with contextlib.suppress(OSError):  # an empty datagram wakes the thread at once
                self._socket.sendto(b"", ("127.0.0.1", self._socket.getsockname()[1]))
            self._thread.join()
        self._socket.close()

    def at(self, place: str) -> None:
        """Record that the training loop passes a place; all ranks call this at the same places."""
        self._places, self._place = self._places + 1, place

    def _watch(self) -> None:
        started = awake = time.monotonic()
        sent_at, warned = -self._interval, False
        while not self._stop.is_set():
            if awake - sent_at >= self._interval:
                sent_at = awake
                self._beat()
            abort = self._receive()
            now = time.monotonic()
            self._discount(now - awake)
            awake = now
            abort = abort or self._reason_to_abort(now)
            if abort and not self._stop.is_set():
                self._end(abort)
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
            print(
                f"climax-hpc: warning: no heartbeat from ranks {', '.join(map(str, missing[:8]))}"
                f"{' …' if len(missing) > 8 else ''} ({len(missing)} of {self._world.size}), so hangs there will not "
                "be detected: allow UDP between the nodes",
                file=sys.stderr,
                flush=True,
            )

    def _report(self) -> RankReport:
        self._life += 1
        return RankReport(life=self._life, places=self._places, place=self._place, host=self._host, process=os.getpid())

    def _beat(self) -> None:
        """Rank 0 records its own report; the others send theirs to rank 0."""
        if self._world.is_first:
            self._record(0, self._report())
        else:
            self._send((os.environ["MASTER_ADDR"], self._first_port), report=vars(self._report()))

    def _receive(self) -> str | None:
        """Take one datagram, which rank 0 answers; the reason to abort, if another rank sent one."""
        try:
            data, address = self._socket.recvfrom(_LONGEST_REPORT)
            message = json.loads(data)
        except (OSError, ValueError):  # timed out, or sent by something else
            return None
        if not isinstance(message, dict) or message.pop("token", None) != self._token:
            return None
        if "abort" in message:
            return str(message["abort"])
        self._record(message["rank"], RankReport(**message["report"]))
        if self._world.is_first:
            self._addresses[message["rank"]] = address
            self._send(address, report=vars(self._seen[0].report))
        return None

    def _send(self, address: Any, **message: Any) -> None:
        datagram = json.dumps({"token": self._token, "rank": self._world.rank} | message).encode()
        with contextlib.suppress(OSError):  # like a datagram lost on the way; the next one may arrive
            self._socket.sendto(datagram, address)

    def _record(self, rank: int, report: RankReport) -> None:
        now, before = time.monotonic(), self._seen.get(rank)
        self._seen[rank] = RankObservation(
            report=report,
            life_at=before.life_at if before and before.report.life == report.life else now,
            place_at=before.place_at if before and before.report.places == report.places else now,
        )

    def _reason_to_abort(self, now: float) -> str | None:
        """The reason as "RANK …", as far as this rank can tell."""
        if self._world.is_first:
            hung = find_hung(self._seen, now, self._timeout)
        elif 0 not in self._seen:
            hung = None
        else:  # rank 0 knows more, so the others wait longer, and only for its life signs
            alive = {0: RankObservation(report=self._seen[0].report, life_at=self._seen[0].life_at, place_at=now)}
            hung = find_hung(alive, now, self._timeout + 3 * self._interval)
        return f"{hung[0]} {hung[1]}" if hung else None

    def _end(self, abort: str) -> None:
        self.ending = True
        hung = int(abort.split()[0])
        dumped = self._dump()
        # Rank 0 reports, or rank 1 where rank 0 is the one that hangs and gives no sign of life.
        silent = hung == 0 and not self._world.is_first
        if self._world.is_first or (silent and self._world.rank == 1):
            message = (
                f"rank {abort}{dumped}; the last checkpoint is intact: start the same command again to resume from it"
            )
            print_error(message)
            self._on_abort(message)
        if self._world.is_first:
            for address in 3 * list(self._addresses.values()):  # datagrams may be lost
                self._send(address, abort=abort)
            self._wake(hung)
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
