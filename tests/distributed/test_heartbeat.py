"""Which rank is found hung, from what the ranks reported; and datagrams of others, which change nothing."""

import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from climax_hpc.distributed import process_group
from climax_hpc.distributed.hang_detection import RankObservation, RankReport, find_hung
from climax_hpc.distributed.heartbeat import Heartbeat
from climax_hpc.distributed.launcher import World
from climax_hpc.distributed.signals import EXIT_RANK_LOST

GOOD = {"life": 5, "places": 3, "place": "step 3", "part_written": 0, "host": "node", "process": 1234}


def seen(places: int, *, life_at: float, place_at: float, part_written: int = 0) -> RankObservation:
    report = RankReport(
        life=1, places=places, place=f"place {places}", part_written=part_written, host="node", process=1
    )
    return RankObservation(report=report, life_at=life_at, place_at=place_at)


def test_who_is_hung() -> None:
    well = {0: seen(7, life_at=99, place_at=99), 1: seen(7, life_at=98, place_at=95)}
    assert find_hung(well, now=100, timeout=10) is None
    # Before the second step kernels may still be compiling.
    assert find_hung({0: seen(1, life_at=99, place_at=65)}, now=100, timeout=10) is None
    # No progress since second 50; rank 1 has passed fewer places, so the others wait for it.
    stuck = {0: seen(7, life_at=99, place_at=50), 1: seen(6, life_at=99, place_at=50)}
    found = find_hung(stuck, now=100, timeout=10)
    assert found
    assert found[0] == 1
    assert found[1].startswith("is stuck in place 6 since ")
    assert "(50 s)" in found[1]
    # Rank 1 has written its part of a checkpoint, and waits for that of rank 0.
    writing = {0: stuck[0], 1: seen(6, life_at=99, place_at=50, part_written=1)}
    found = find_hung(writing, now=100, timeout=10)
    assert found
    assert found[0] == 0
    # No sign of life is worse than no progress.
    silent = stuck | {2: seen(8, life_at=80, place_at=80)}
    found = find_hung(silent, now=100, timeout=10)
    assert found
    assert found[0] == 2
    assert "gives no sign of life since " in found[1]


class Rank1:
    """A socket that sends to the heartbeat of rank 0, with its key or without."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self.heartbeat, self.datagrams = heartbeat, heartbeat._datagrams
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(5)

    def send(self, data: bytes) -> None:
        self.socket.sendto(data, self.datagrams.own)

    def signed(self, body: bytes) -> bytes:
        return self.datagrams._signature(body) + body

    def report(self, **changed: Any) -> bytes:
        return self.signed(json.dumps({"rank": 1, "report": GOOD | changed}).encode())

    def observed(self, happened: Callable[[RankReport], bool]) -> RankReport:
        """What rank 0 holds of rank 1, once that has happened."""
        end = time.monotonic() + 5
        while time.monotonic() < end:
            if 1 in self.heartbeat._seen and happened(self.heartbeat._seen[1].report):
                return self.heartbeat._seen[1].report
            time.sleep(0.005)
        raise AssertionError("not observed")


@pytest.fixture
def rank1(tmp_path: Path) -> Iterator[Rank1]:
    """Rank 1 of a run whose rank 0 watches in this process."""
    process_group.connect()
    ended: list[str] = []
    with Heartbeat(World(rank=0, size=2), tmp_path, timeout=60, on_abort=ended.append) as heartbeat:
        yield Rank1(heartbeat)
        assert heartbeat._thread.is_alive()
        assert not heartbeat.ending
    assert not ended


def unsigned(rank1: Rank1) -> list[bytes]:
    """Datagrams of something that does not know the key."""
    good, chance = rank1.report(), random.Random(0)
    body = good[32:]
    old = json.dumps({"token": "0" * 16, "rank": 1, "report": GOOD}).encode()
    return [
        b"", b"[", b"[" * 4096, b"{" * 60_000, b"\x00" * 32, b"\xff" * 33, b"[" * 32, body, old, good[:32], good[:-1],
        good + b" ", good[1:], b"\x00" * 32 + body, good[:31] + bytes([good[31] ^ 1]) + body, good.upper(),
        rank1.signed(b"x" * 5000), b"1" * 10_000, b'{"rank": 1e999}', b"NaN", b"\x1b[2J",
        *(chance.randbytes(chance.randrange(1, 5000)) for _ in range(20)),
        *(chance.randbytes(32) + body for _ in range(10)),
        *(good[:k] + bytes([good[k] ^ 1]) + good[k + 1 :] for k in range(0, len(good), 9)),
    ]  # fmt: skip


def test_datagrams_of_others_are_dropped(rank1: Rank1, capsys: pytest.CaptureFixture[str]) -> None:
    assert rank1.datagrams.own[0] == "127.0.0.1"  # all ranks are on this node
    for data in unsigned(rank1):
        rank1.send(data)
        time.sleep(0.001)  # or the system drops the last ones, because its buffer is full
    rank1.send(rank1.report())
    assert rank1.observed(lambda report: report.life == 5).place == "step 3"
    reply = rank1.socket.recv(4096)
    assert rank1.signed(reply[32:]) == reply
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("key", sorted(GOOD))
@pytest.mark.parametrize("value", [None, True, -1, 10**400, 1e999, float("nan"), "9" * 300, [[]], {}, 1.5])
def test_reports_of_another_form_change_nothing(rank1: Rank1, key: str, value: Any) -> None:
    rank1.send(rank1.report(**{key: value}))
    rank1.send(rank1.report())
    assert vars(rank1.observed(lambda report: report.life == 5)) == GOOD


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[" * 4000, b"[]", b"1", b"null", b'"rank"', b"{}", b'{"rank": 1}', b'{"rank": 2, "report": {}}', b"\xff",
        b'{"rank": -1, "report": {}}', b'{"rank": true, "report": {}}', b'{"rank": 1, "abort": 7}', b'{"rank": 1e999}',
        b'{"rank": 1, "abort": [7, "x"]}', b'{"rank": 1, "abort": [1]}', b'{"rank": 1, "report": [1, 2, 3, 4, 5]}',
        b'{"rank": 1, "failed": 0}', b'{"rank": 1, "failed": 256}', b'{"rank": 1, "failed": true}',
        b'{"rank": 2, "failed": 1}', b'{"rank": 1, "report": null}', b"9" * 4000, b'{"rank": ' + b"9" * 4000 + b"}",
    ],
)  # fmt: skip
def test_no_message_ends_the_watcher(rank1: Rank1, body: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    rank1.send(rank1.signed(body))
    rank1.send(rank1.report())
    rank1.observed(lambda report: report.life == 5)
    assert capsys.readouterr().err.count("warning: a heartbeat could not be read or sent") == 1


def test_a_datagram_sent_again_is_no_sign_of_life(rank1: Rank1) -> None:
    early, late = rank1.report(life=6, places=4), rank1.report(life=7, places=4)
    rank1.send(early)
    rank1.send(late)
    rank1.observed(lambda report: report.life == 7)
    before = rank1.heartbeat._seen[1]
    for data in (early, late, early, late):
        rank1.send(data)
    rank1.send(b"the last one")
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline:
        assert rank1.heartbeat._seen[1].life_at == before.life_at
        assert rank1.heartbeat._seen[1].report.life == 7


def test_a_rank_ends_even_if_its_report_cannot_be_written(tmp_path: Path) -> None:
    code = f"""
import ctypes, time
from pathlib import Path
from climax_hpc.distributed import heartbeat, process_group
from climax_hpc.distributed.launcher import World
from climax_hpc.distributed.signals import EXIT_RANK_LOST
process_group.connect()
heartbeat._LONGEST_REPORT = 0.5
with heartbeat.Heartbeat(World(), Path({str(tmp_path)!r}), timeout=0.5, on_abort=lambda _: time.sleep(1000)) as beat:
    for step in range(3):
        beat.at("step")
    ctypes.CDLL(None).sleep(1000)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == EXIT_RANK_LOST, done.stderr
    assert done.stderr.startswith("climax-hpc: error: rank 0 is stuck in step since ")
    assert "sleep(1000)" not in done.stderr
    assert (tmp_path / "stacks" / "rank_00000.txt").stat().st_size > 0
