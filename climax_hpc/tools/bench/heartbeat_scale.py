"""What the heartbeat costs at thousands of ranks: `python -m climax_hpc.tools.bench.heartbeat_scale`.

Rank 0 runs its real watcher beside a loop of Python that stands for the training loop. The first nodes are light ranks:
the real code of a rank's heartbeat, in threads of a second process. The nodes behind them are simulated: a third
process sends their signed datagrams at the true rate and reads the replies.
"""

import argparse
import contextlib
import json
import multiprocessing
import queue
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from climax_hpc.distributed.datagrams import Datagrams
from climax_hpc.distributed.hang_detection import RankReport, in_datagrams, to_row
from climax_hpc.distributed.heartbeat import Heartbeat, beat_interval
from climax_hpc.distributed.launcher import World
from climax_hpc.distributed.peers import Address, find_peers

_PLACE_EVERY = 0.01  # seconds of the training loop
_NO_STACKS = Path("/dev/null")  # a folder where a rank that counts as hung cannot write
_LONGEST_START = 300.0  # seconds


@dataclass(frozen=True, kw_only=True)
class ImitatedRun:
    """A run to imitate."""

    ranks: int
    ranks_per_node: int = 8
    light: int = 256
    """Ranks, 0 included, that run the code of a rank."""
    hang_timeout: float = 900.0
    seconds: float = 30.0
    """Length of the measurement."""
    by_rank: bool = False
    """Simulated ranks send one datagram each, all in the first quarter of the interval: no rank speaks for others."""

    @property
    def interval(self) -> float:
        """Between two beats [s]."""
        return beat_interval(self.hang_timeout)

    @property
    def nodes(self) -> list[str]:
        """Name of the node of each rank."""
        return [f"node {rank // self.ranks_per_node}" for rank in range(self.ranks)]


def light_heartbeats(run: ImitatedRun, bound: list[socket.socket], first: Address, key: bytes) -> list[Heartbeat]:
    """Heartbeats of the ranks 1, 2, … with these sockets."""
    addresses = [first, *(each.getsockname() for each in bound)]
    addresses += [first] * (run.ranks - len(addresses))  # of simulated ranks, to which no light rank sends
    nodes, wait = run.nodes, run.interval / 4
    return [
        Heartbeat(
            World(rank=rank, size=run.ranks),
            _NO_STACKS,
            timeout=run.hang_timeout,
            on_abort=print,
            met=(Datagrams(each, key, timeout=wait), find_peers(rank, nodes, addresses, first)),
        )
        for rank, each in enumerate(bound, start=1)
    ]


def open_socket() -> socket.socket:
    """A UDP socket on the loopback interface."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind(("127.0.0.1", 0))
    return bound


def run_light_ranks(run: ImitatedRun, first: Address, key: bytes, stop: Any, results: Any) -> None:
    """Process of the light ranks; puts how many descriptors each has."""
    before = open_descriptors()
    bound = [open_socket() for _ in range(1, min(run.light, run.ranks))]
    with ExitStack() as running:
        heartbeats = [running.enter_context(each) for each in light_heartbeats(run, bound, first, key)]
        results.put((open_descriptors() - before) / len(heartbeats))
        while not stop.wait(0.2):
            for heartbeat in heartbeats:
                heartbeat.at("step")


def replay(run: ImitatedRun, first: Address, key: bytes, stop: Any, results: Any) -> None:
    """Process of the simulated ranks: sends what their nodes, or they, would send."""
    bound = open_socket()
    signer = Datagrams(bound, key, timeout=run.interval)
    bound.setblocking(False)
    results.put(None)
    beats, begin, life = planned_beats(run), time.monotonic(), 0
    while True:
        life += 1
        for turn, ranks in beats:
            due = begin + (life - 1 + turn) * run.interval - time.monotonic()
            if due > 0.002 and stop.wait(due):
                return
            for message in node_messages(ranks, life):
                signer.send(first, message)
            while signer.receive():
                pass
        if stop.is_set():
            return


def planned_beats(run: ImitatedRun) -> list[tuple[float, list[int]]]:
    """(place in the interval, ranks that it reports) of each simulated beat, in order."""
    behind = range(run.light, run.ranks)
    if run.by_rank:
        return [(0.25 * i / len(behind), [rank]) for i, rank in enumerate(behind)]
    nodes: dict[int, list[int]] = {}
    for rank in behind:
        nodes.setdefault(rank // run.ranks_per_node, []).append(rank)
    count = -(-run.ranks // run.ranks_per_node)
    return [(node / count, ranks) for node, ranks in nodes.items()]


def node_messages(ranks: list[int], life: int) -> list[dict[str, Any]]:
    """What the first of these ranks sends at a beat."""
    place = f"reading data after step {life}"
    report = RankReport(life=life, places=life, place=place, part_written=0, host="node0001", process=12345)
    parts = in_datagrams([to_row(rank, report) for rank in ranks[1:]])
    return [{"rank": ranks[0], "report": vars(report)} | ({"others": rows} if rows else {}) for rows in parts]


class CountedDatagrams(Datagrams):
    """Counts what it sends and receives."""

    def __init__(self, bound: socket.socket, key: bytes, *, timeout: float) -> None:
        super().__init__(bound, key, timeout=timeout)
        self.counts: Counter[str] = Counter()

    def send(self, address: Address, message: Any) -> None:
        """Send, and count it."""
        self.counts["sent"] += 1
        super().send(address, message)

    def receive(self) -> tuple[Any, Address] | None:
        """Receive, and count it."""
        received = super().receive()
        self.counts["received"] += received is not None
        return received


def open_descriptors() -> int:
    """Number of open files and sockets of this process (Linux; 0 elsewhere)."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def loop(heartbeat: Heartbeat, seconds: float) -> None:
    """Run Python that holds the interpreter for as long as it may, the worst case for the watcher; pass places."""
    end = time.monotonic() + seconds
    pass_at = 0.0
    while (now := time.monotonic()) < end:
        sum(range(100))
        if now > pass_at:
            heartbeat.at("step")
            pass_at = now + _PLACE_EVERY


def watcher_clock() -> Callable[[], float]:
    """Processor time [s] of the heartbeat's thread in this process (Unix)."""
    thread = next(each for each in threading.enumerate() if each.name == "heartbeat")
    clock = time.pthread_getcpuclockid(thread.ident or 0)
    return lambda: time.clock_gettime(clock)


def measure(run: ImitatedRun) -> dict[str, Any]:
    """What rank 0 receives per interval, how many ranks it hears, and what that costs it."""
    context = multiprocessing.get_context("spawn")
    stop, results = context.Event(), context.Queue()
    key, bound = secrets.token_bytes(32), open_socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)  # as for rank 0 of a run
    first = bound.getsockname()
    datagrams = CountedDatagrams(bound, key, timeout=run.interval / 4)
    met = (datagrams, find_peers(0, run.nodes, [first] * run.ranks, first))
    others = []
    if min(run.light, run.ranks) > 1:
        others.append(context.Process(target=run_light_ranks, args=(run, first, key, stop, results)))
    if run.light < run.ranks:
        others.append(context.Process(target=replay, args=(run, first, key, stop, results)))
    heartbeat = Heartbeat(World(size=run.ranks), _NO_STACKS, timeout=run.hang_timeout, on_abort=print, met=met)
    with heartbeat:
        for process in others:
            process.start()
        try:
            started = [_wait_for(results, heartbeat) for _ in others]
            loop(heartbeat, 1.5 * run.interval)  # each node has its first turn
            row = _watched(run, heartbeat, datagrams.counts)
        finally:
            stop.set()
            for process in others:
                process.join(timeout=60)
    descriptors = next((number for number in started if number is not None), None)
    return {"ranks": run.ranks, "nodes": len(set(run.nodes))} | row | {"descriptors_per_rank": descriptors}


def _wait_for(results: Any, heartbeat: Heartbeat) -> float | None:
    """What another process puts once it has started.

    Raises:
        TimeoutError: none has.
    """
    end = time.monotonic() + _LONGEST_START
    while time.monotonic() < end:
        heartbeat.at("start-up")
        with contextlib.suppress(queue.Empty):
            found: float | None = results.get(timeout=0.1)
            return found
    raise TimeoutError("the other processes did not start")


def _watched(run: ImitatedRun, heartbeat: Heartbeat, counts: Counter[str]) -> dict[str, Any]:
    clock = watcher_clock()
    before, used, begin = counts.copy(), clock(), time.monotonic()
    loop(heartbeat, run.seconds)
    seconds = time.monotonic() - begin
    intervals = seconds / run.interval
    received = (counts["received"] - before["received"]) / intervals
    return {
        "received_per_interval": round(received, 1),
        "received_per_node": round(received / len(set(run.nodes)), 2),
        "sent_per_interval": round((counts["sent"] - before["sent"]) / intervals, 1),
        "heard": heartbeat.heard(2.5 * run.interval) / run.ranks,
        "watcher_cpu_share": round((clock() - used) / seconds, 5),
    }


def main() -> None:
    """Print a line of JSON for each number of ranks."""
    parser = argparse.ArgumentParser(prog="python -m climax_hpc.tools.bench.heartbeat_scale", description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64, 512, 4096])
    parser.add_argument("--ranks-per-node", type=int, default=8)
    parser.add_argument("--light", type=int, default=256, help="ranks that run the code of a rank; simulate the others")
    parser.add_argument("--hang-timeout", type=float, default=900.0, help="[s]; the interval follows from it")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each measurement")
    parser.add_argument("--by-rank", action="store_true", help="simulated ranks do not speak for each other")
    settings = vars(parser.parse_args())
    for ranks in settings.pop("ranks"):
        print(json.dumps(measure(ImitatedRun(ranks=ranks, **settings))), flush=True)


if __name__ == "__main__":
    main()
