"""Reads what strace writes: the system calls of ranks on the files of a run, and what they send over sockets."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

STRACE = ["strace", "-f", "-qq", "-y", "-s", "0"]
"""Follows threads; -y names the file of a descriptor."""
_CALL = re.compile(r"^(?:\d+ +)?\w+\(")
_TIMED = re.compile(r"^(\d+\.\d+) (\w+)\((.*)\)\s+= (-?\d+|\?)(.*)$")
_STARTS = {"clone", "clone3", "fork", "vfork"}
_OPENS = {"open", "openat", "openat2", "creat"}
_STATS = {
    "stat", "lstat", "fstat", "newfstatat", "statx", "access", "faccessat", "faccessat2", "readlink", "readlinkat",
}  # fmt: skip
_READS = {"read", "pread64", "readv", "preadv", "preadv2"}
_LISTS = {"getdents64"}
_OTHERS = {
    "write", "pwrite64", "pwritev", "ftruncate", "truncate", "fallocate", "fsync", "fdatasync", "flock", "mkdir",
    "mkdirat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "link", "linkat", "symlink", "chmod",
    "fchmod", "fchmodat", "utimensat", "statfs", "fstatfs",
}  # fmt: skip
_TO_RANKS = {"writev", "sendto"}  # of gloo; of torch's store and of heartbeats
TRACED = sorted(_STARTS | _OPENS | _STATS | _READS | _LISTS | _OTHERS | _TO_RANKS)
"""What is counted; a network thread's `epoll_wait` would only keep strace busy."""
_SOCKET = re.compile(r"\d+<socket:")


def calls_in(lines: Sequence[str], places: dict[str, str]) -> dict[str, int]:
    """Calls in the output of `strace -y` on each place and on files below it."""
    calls = [line for line in lines if _CALL.match(line)]  # not the second half of an interrupted one
    patterns = {name: re.compile(rf'["<]{re.escape(place)}[/">(]') for name, place in places.items()}
    return {name: sum(pattern.search(line) is not None for line in calls) for name, pattern in patterns.items()}


@dataclass(frozen=True)
class Call:
    """One system call."""

    at: float
    """Time [s]."""
    name: str
    arguments: str
    result: int
    """-1 for an error, and where the process ended in it."""
    after: str
    """What follows the result: the file of a new descriptor, or the error."""


def read_calls(path: Path) -> list[Call]:
    """The calls of one thread from a file of `strace -ff -ttt -y`."""
    found = (_TIMED.match(line) for line in path.read_text(errors="replace").splitlines())
    return [
        Call(float(at), name, arguments, -1 if result == "?" else int(result), after)
        for at, name, arguments, result, after in (match.groups() for match in found if match)
    ]


def calls_of_processes(traces: Mapping[int, list[Call]], mains: Iterable[int]) -> list[list[Call]]:
    """The calls of each process with all its threads; `traces`: by thread, `mains`: the first thread of each."""
    of_processes = []
    for main in mains:
        threads, calls = [main], []
        for thread in threads:  # grows
            calls += traces.get(thread, [])
            threads += [call.result for call in traces.get(thread, []) if call.name in _STARTS and call.result > 0]
        of_processes.append(sorted(calls, key=lambda call: call.at))
    return of_processes


@dataclass
class Counts:
    """What one rank asks of file systems and sends."""

    opens: int = 0
    stats: int = 0
    """Questions for the existence, kind or size of a file; also of an open one."""
    reads: int = 0
    others: int = 0
    """Lists of folders, writes, locks, renamings, …"""
    bytes_read: int = 0
    sends: int = 0
    """Messages of gloo over connections to other ranks, its notices included."""
    store_sends: int = 0
    """Requests to torch's TCPStore, which rank 0 serves."""
    datagrams: int = 0
    """UDP messages to other ranks."""
    opened: Counter[str] = field(default_factory=Counter)
    """How often each file was opened."""


def count(calls: Iterable[Call], places: Sequence[str]) -> Counts:
    """The calls on files below `places`, and on sockets."""
    counts = Counts()
    in_places = re.compile(r'["<]((?:' + "|".join(map(re.escape, places)) + r')(?:/[^">(]*)?)[">(]')
    for call in calls:
        if call.name in _TO_RANKS and _SOCKET.match(call.arguments):
            if call.result > 0:  # an empty datagram wakes the own thread
                _count_sent(counts, call)
            continue
        found = in_places.search(call.arguments)
        if not found:
            continue
        if call.name in _OPENS:
            counts.opens += 1
            counts.opened[found[1]] += call.result >= 0
        elif call.name in _STATS:
            counts.stats += 1
        elif call.name in _READS:
            counts.reads += 1
            counts.bytes_read += max(call.result, 0)
        elif call.name in _LISTS | _OTHERS:
            counts.others += 1
    return counts


def _count_sent(counts: Counts, call: Call) -> None:
    if call.name == "writev":
        counts.sends += 1
    elif "sin_port=" in call.arguments:
        counts.datagrams += 1
    elif call.arguments.endswith(", NULL, 0"):  # not to the kernel, by AF_NETLINK
        counts.store_sends += 1
