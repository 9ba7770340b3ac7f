"""Detects hung ranks and ends all ranks with a stack dump each, so that the allocation is not wasted.

Every rank counts the places that its training loop passes. A thread sends that count and a count of life signs to the
first rank of its node (`peers.py`), which sends those of the whole node to rank 0 in one datagram. The replies carry
the count of rank 0. A rank whose node's first rank does not reply reports to rank 0 too. Rank 0 judges all ranks
once per interval; all others watch whether rank 0 is alive, so that some rank can always report.

Once a rank is hung (`hang_detection.py`), rank 0 informs all ranks directly: each writes RUN/stacks/rank_00000.txt and
exits with EXIT_RANK_LOST. A rank that fails by itself informs the others too, because NCCL does not: their main threads
may wait in a GPU kernel forever, so the watcher ends them. Messages are signed UDP datagrams, because neither a stopped
peer nor a hung file system can block those (torch's TCPStore was measured to wait forever for a stopped server).
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
from dataclasses import replace
from pathlib import Path
from typing import Any

from climax_hpc.distributed.datagrams import Datagrams, meet
from climax_hpc.distributed.hang_detection import (
    LONGEST_TEXT,
    Hung,
    RankObservation,
    RankReport,
    Row,
    find_hung,
    from_row,
    in_datagrams,
    to_row,
)
from climax_hpc.distributed.launcher import World
from climax_hpc.distributed.peers import Address, Peers
from climax_hpc.distributed.signals import EXIT_RANK_LOST
from climax_hpc.errors import print_error

_GRACE = 5.0
"""Seconds in which the main thread of a rank may end by itself after another rank has failed."""
_LONGEST_REPORT = 30.0
"""Seconds after which a rank ends even if its file system does not take the report."""
_PATIENCE = 2  # intervals without a reply, after which a rank reports to rank 0 too
_COPIES = 3  # of a message that ends ranks: datagrams may be lost


def _warn(text: str) -> None:
    print(f"climax-hpc: warning: {text}", file=sys.stderr, flush=True)


def _exit_later(status: int) -> None:
    """End this process soon, whatever its other threads wait for."""
    timer = threading.Timer(_LONGEST_REPORT, os._exit, [status])
    timer.daemon = True
    timer.start()


def _checked_status(status: Any) -> int:
    if type(status) is not int or not 0 < status < 256:
        raise ValueError(f"{str(status)[:100]!r} is not the exit status of an error")
    return status


def beat_interval(timeout: float) -> float:
    """Time [s] between two reports of a rank."""
    return min(max(timeout / 4, 0.2), 10.0) if timeout else 10.0


class Heartbeat:
    """Watches the ranks of a run from a thread. Construction is a collective, unless `met` is given.

    With `timeout` 0 no rank counts as hung; the watcher then only passes on that a rank has failed.
    """

    def __init__(
        self,
        world: World,
        run_folder: Path,
        *,
        timeout: float,
        on_abort: Callable[[str], None],
        part_written: Callable[[], bool] = lambda: False,
        met: tuple[Datagrams, Peers] | None = None,
    ) -> None:
        """Args: `on_abort` receives the reason, in the thread of the reporting rank, just before the process ends.

        `part_written` tells whether this rank waits for the others' parts of a checkpoint. `met`: the socket of this
        rank and whom it reports to, where there is no process group.
        """
        self._world, self._timeout, self._on_abort, self._part_written = world, timeout, on_abort, part_written
        self._stacks = run_folder / "stacks"
        self._places, self._place, self._life = 0, "start-up", 0
        self._host = socket.gethostname()[:LONGEST_TEXT]
        self._seen: dict[int, RankObservation] = {}
        self._stop = threading.Event()
        self.ending = False
        """True once a rank was found hung: this process ends within seconds."""
        self.failure: tuple[int, int] | None = None
        """Rank and exit status of another rank that has failed and said why."""
        self.news = threading.Event()
        """Set once one of the two is known."""
        self._interval = beat_interval(timeout)
        self._watches = bool(timeout) or world.size > 1
        self._datagrams, self._peers = met or meet(timeout=self._interval / 4)
        self._addresses: dict[int, Address] = dict(self._peers.addresses)
        self._superior_at = time.monotonic()
        self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        if self._watches:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._watches:
            self._datagrams.wake()
            self._thread.join()
        self._datagrams.close()

    def at(self, place: str) -> None:
        """Record that the training loop passes a place; all ranks call this at the same places."""
        self._places, self._place = self._places + 1, place[:LONGEST_TEXT]

    def heard(self, within: float) -> int:
        """Number of ranks that gave a sign of life in the last `within` seconds, as far as this rank knows."""
        now = time.monotonic()
        return sum(now - seen.life_at <= within for seen in list(self._seen.values()))

    def fail(self, status: int) -> None:
        """Inform the other ranks that this one ends with an error; they end with the same exit status."""
        self._pass_on(rank=self._world.rank, failed=status)

    def _pass_on(self, **message: Any) -> None:
        """Send what ends ranks to all others, by way of rank 0, and to those of the node that report to this one."""
        others = list(self._addresses.values())
        if not self._world.is_first:
            others.append(self._peers.first_address)
        for address in _COPIES * others:
            self._send(address, **message)

    def _watch(self) -> None:
        started = awake = self._superior_at = time.monotonic()
        sent_at = started - self._interval * (1 - self._peers.turn)
        self._record(self._world.rank, self._report())
        warned, failed = False, False
        while not self._stop.is_set():
            hung, judging = None, not self._world.is_first
            try:
                if awake - sent_at >= self._interval:
                    sent_at, judging = awake, True
                    self._beat()
                hung = self._receive()
            except Exception as error:  # a watcher that ends would leave every later hang unseen
                if not failed:
                    _warn(
                        f"a heartbeat could not be read or sent ({type(error).__name__}: {str(error)[:LONGEST_TEXT]})"
                    )
                failed = True
            now = time.monotonic()
            self._discount(now - awake)
            awake = now
            if self.failure:
                self._end_after_failure(*self.failure)
                return
            if judging:  # rank 0 judges all ranks, so not at every datagram
                hung = hung or self._find_hung(now)
            if hung and not self._stop.is_set():
                self._end(*hung)
            if self._world.is_first and self._timeout and not warned and now - started > self._timeout:
                warned = True
                self._warn_of_unheard()

    def _discount(self, pause: float) -> None:
        """Time in which this thread did not run (stopped process, busy interpreter) says nothing about other ranks."""
        if pause > 2 * self._interval:
            self._superior_at += pause
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
        return RankReport(
            life=self._life,
            places=self._places,
            place=self._place,
            part_written=int(self._part_written()),
            host=self._host,
            process=os.getpid(),
        )

    def _beat(self) -> None:
        """Record the own report, and send it to the rank of the node that speaks for it, or as that rank to rank 0."""
        now, rank = time.monotonic(), self._world.rank
        self._record(rank, self._report())
        if self._world.is_first:
            return
        silent = now - self._superior_at > _PATIENCE * self._interval
        # To both, because the superior may reply again: a lost datagram must not last for the whole run.
        to = {self._peers.superior_address, self._peers.first_address} if silent else {self._peers.superior_address}
        members = [to_row(other, self._seen[other].report) for other in self._peers.members if other in self._seen]
        for rows in in_datagrams(members):
            for address in to:
                self._send_report(address, rows)

    def _send_report(self, address: Address, others: list[Row]) -> None:
        own = vars(self._seen[self._world.rank].report)
        self._send(address, report=own, **({"others": others} if others else {}))

    def _receive(self) -> Hung | None:
        """Take one datagram, and reply to a report; the hung rank, if another rank found one."""
        received = self._datagrams.receive()
        if received is None:
            return None
        message, address = received
        rank = self._checked(message["rank"])
        if "abort" in message:
            hung, reason = message["abort"]
            return self._checked(hung), str(reason)
        if "failed" in message:
            self.failure = rank, _checked_status(message["failed"])
            return None
        self._take_reports(rank, message, address)
        return None

    def _take_reports(self, rank: int, message: Any, address: Address) -> None:
        report = RankReport.from_message(message["report"])
        reports = [(rank, report), *(from_row(row, report.host) for row in message.get("others", ()))]
        for other, each in reports:
            self._record(self._checked(other), each)
        if rank == self._peers.superior:
            self._superior_at = time.monotonic()
        if self._world.is_first or rank in self._peers.members:
            self._addresses[rank] = address
            known = not self._world.is_first and 0 in self._seen
            self._send_report(address, [to_row(0, self._seen[0].report)] if known else [])

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
        if not self._timeout:
            return None
        if self._world.is_first:
            return find_hung(self._seen, now, self._timeout)
        if 0 not in self._seen:
            return None
        # Rank 0 knows more, so the others wait longer, and only for its life signs.
        alive = {0: RankObservation(report=self._seen[0].report, life_at=self._seen[0].life_at, place_at=now)}
        return find_hung(alive, now, self._timeout + 3 * self._interval)

    def _end_after_failure(self, rank: int, status: int) -> None:
        """Pass the news on, and end this process if its main thread does not: it may wait for the failed rank."""
        self.news.set()
        if self._addresses:
            self._pass_on(rank=rank, failed=status)
        if self._stop.wait(_GRACE):
            return
        _exit_later(status)
        try:
            self._on_abort(f"rank {rank} failed; its message is in the log")
        finally:
            os._exit(status)

    def _end(self, hung: int, reason: str) -> None:
        self.ending = True
        self.news.set()
        _exit_later(EXIT_RANK_LOST)
        try:
            if self._addresses:
                self._pass_on(abort=(hung, reason))
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
