"""Finds ranks that hang, and ends all of them with a stack dump each instead of burning the allocation.

Every rank counts the places that its training loop passes; a thread of its own sends that count, with a count of life
signs, to rank 0, which answers with its own. Rank 0 watches all ranks, all others watch whether rank 0 lives, so that
somebody is left to speak. In a collective all ranks stand still when one hangs; the one that hangs has passed the
fewest places, or gives no life sign at all (stopped, or dead without closing its connections).

Once a rank has stood still for `timeout` seconds (four times that until its second step), the watcher tells all: each
writes RUN/stacks/rank_00000.txt and exits with status 76. Signs are UDP datagrams, because neither a stopped peer nor
a hung file system can block those (torch's TCPStore was measured to wait for a stopped server for ever).
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

_LONGEST_SIGN = 4096  # bytes
_STARTING = 2  # places; up to the first step kernels are compiled and caches are cold
_START_FACTOR = 4


@dataclass(frozen=True, kw_only=True)
class Sign:
    """What a rank publishes."""

    life: int
    places: int
    place: str
    host: str
    process: int


@dataclass(frozen=True, kw_only=True)
class Seen:
    """When a watcher last saw something new of a rank, on the watcher's own clock."""

    sign: Sign
    life_at: float
    place_at: float


def find_hung(seen: dict[int, Seen], now: float, timeout: float) -> tuple[int, str] | None:
    """The rank that others wait for and what is known of it; None while all is well.

    A rank without life sign goes first; then, of those that stand still, the one that has passed the fewest places.
    """
    silent = {rank: s for rank, s in seen.items() if now - s.life_at > timeout}
    if silent:
        rank = min(silent, key=lambda r: (silent[r].life_at, r))
        last = silent[rank]
        return rank, f"gives no sign of life since {_clock(now - last.life_at)}; it was last in {last.sign.place}"
    still = {rank: s for rank, s in seen.items() if now - s.place_at > timeout * _patience(s.sign)}
    if still:
        rank = min(still, key=lambda r: (still[r].sign.places, r))
        return rank, f"is stuck in {still[rank].sign.place} since {_clock(now - still[rank].place_at)}"
    return None


def _patience(sign: Sign) -> int:
    return _START_FACTOR if sign.places < _STARTING else 1


def _clock(ago: float) -> str:
    when = datetime.now(UTC) - timedelta(seconds=ago)
    return f"{when:%H:%M:%S} UTC ({ago:.0f} s)"


class Heartbeat:
    """Watches the ranks of one run from a thread; `timeout` 0 switches it off. Made by all ranks together."""

    def __init__(self, world: World, run_folder: Path, *, timeout: float, on_abort: Callable[[str], None]) -> None:
        """Args: `on_abort` is told the reason, from the thread, on the rank that tells it, just before the end."""
        self._world, self._timeout, self._on_abort = world, timeout, on_abort
        self._stacks = run_folder / "stacks"
        self._places, self._place, self._life = 0, "start-up", 0
        self._host = socket.gethostname()
        self._seen: dict[int, Seen] = {}
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
        """The training loop passes a place; called at the same places by all ranks."""
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
            self._forgive(now - awake)
            awake = now
            abort = abort or self._verdict(now)
            if abort and not self._stop.is_set():
                self._end(abort)
            if self._world.is_first and not warned and now - started > self._timeout:
                warned = True
                self._warn_of_unheard()

    def _forgive(self, pause: float) -> None:
        """Time in which this thread did not run (a stopped process, a busy interpreter) says nothing about others."""
        if pause > 2 * self._interval:
            for rank, seen in self._seen.items():
                self._seen[rank] = replace(seen, life_at=seen.life_at + pause, place_at=seen.place_at + pause)

    def _warn_of_unheard(self) -> None:
        missing = [rank for rank in range(self._world.size) if rank not in self._seen]
        if missing:
            print(
                f"climax-hpc: warning: no heartbeat came from ranks {', '.join(map(str, missing[:8]))}"
                f"{' …' if len(missing) > 8 else ''} ({len(missing)} of {self._world.size}), so a hung one among them "
                "will not be found: let UDP pass between the nodes",
                file=sys.stderr,
                flush=True,
            )

    def _sign(self) -> Sign:
        self._life += 1
        return Sign(life=self._life, places=self._places, place=self._place, host=self._host, process=os.getpid())

    def _beat(self) -> None:
        """Rank 0 notes its own sign; the others send theirs to it."""
        if self._world.is_first:
            self._note(0, self._sign())
        else:
            self._send((os.environ["MASTER_ADDR"], self._first_port), sign=vars(self._sign()))

    def _receive(self) -> str | None:
        """Take one datagram; rank 0 answers it. The reason to end, where another rank gives one."""
        try:
            data, address = self._socket.recvfrom(_LONGEST_SIGN)
            message = json.loads(data)
        except (OSError, ValueError):  # nothing came, or not from us
            return None
        if not isinstance(message, dict) or message.pop("token", None) != self._token:
            return None
        if "abort" in message:
            return str(message["abort"])
        self._note(message["rank"], Sign(**message["sign"]))
        if self._world.is_first:
            self._addresses[message["rank"]] = address
            self._send(address, sign=vars(self._seen[0].sign))
        return None

    def _send(self, address: Any, **message: Any) -> None:
        datagram = json.dumps({"token": self._token, "rank": self._world.rank} | message).encode()
        with contextlib.suppress(OSError):  # as good as lost on the way; the next one may arrive
            self._socket.sendto(datagram, address)

    def _note(self, rank: int, sign: Sign) -> None:
        now, before = time.monotonic(), self._seen.get(rank)
        self._seen[rank] = Seen(
            sign=sign,
            life_at=before.life_at if before and before.sign.life == sign.life else now,
            place_at=before.place_at if before and before.sign.places == sign.places else now,
        )

    def _verdict(self, now: float) -> str | None:
        """The reason to end, as "RANK …", as far as this rank can see."""
        if self._world.is_first:
            hung = find_hung(self._seen, now, self._timeout)
        elif 0 not in self._seen:
            hung = None
        else:  # rank 0 knows more, so the others wait longer, and only for its life signs
            alive = {0: Seen(sign=self._seen[0].sign, life_at=self._seen[0].life_at, place_at=now)}
            hung = find_hung(alive, now, self._timeout + 3 * self._interval)
        return f"{hung[0]} {hung[1]}" if hung else None

    def _end(self, abort: str) -> None:
        self.ending = True
        hung = int(abort.split()[0])
        dumped = self._dump()
        # Rank 0 tells why, or rank 1 where rank 0 is the one that hangs and gives no sign of life.
        silent = hung == 0 and not self._world.is_first
        if self._world.is_first or (silent and self._world.rank == 1):
            message = f"rank {abort}{dumped}; the last checkpoint is intact, start again to go on"
            print_error(message)
            self._on_abort(message)
        if self._world.is_first:
            for address in 3 * list(self._addresses.values()):  # datagrams may be lost
                self._send(address, abort=abort)
            self._wake(hung)
        os._exit(EXIT_RANK_LOST)

    def _dump(self) -> str:
        """Write what every thread of this rank is doing; says where."""
        with contextlib.suppress(OSError):
            self._stacks.mkdir(parents=True, exist_ok=True)
            with (self._stacks / f"rank_{self._world.rank:05d}.txt").open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
            return f"; what every rank was doing is in {self._stacks}"
        return ""

    def _wake(self, rank: int) -> None:
        """Let a stopped process of this host run on, so that it reads the message, dumps its stack and ends."""
        sign = self._seen[rank].sign
        if sign.host == self._host and sign.process != os.getpid():
            with contextlib.suppress(OSError):
                os.kill(sign.process, signal.SIGCONT)
            self._stop.wait(2 * self._interval)  # its connections break when this rank ends: let it dump first
