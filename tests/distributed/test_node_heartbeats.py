"""One rank of each node speaks for the others: who reports to whom, what a stopped one changes, how news spreads."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from climax_hpc.distributed.datagrams import LONGEST, Datagrams
from climax_hpc.distributed.hang_detection import RankReport, find_hung, from_row, in_datagrams, to_row
from climax_hpc.distributed.heartbeat import Heartbeat
from climax_hpc.distributed.launcher import World
from climax_hpc.distributed.peers import find_peers
from climax_hpc.distributed.signals import EXIT_RANK_LOST

REPORT = RankReport(life=5, places=3, place="step 3", part_written=1, host="node", process=1234)
A_TO_G = [("10.0.0.1", 100 + rank) for rank in range(7)]
NODES = ["a", "a", "b", "b", "b", "c", "a"]


def test_who_reports_to_whom() -> None:
    peers = [find_peers(rank, NODES, A_TO_G, A_TO_G[0]) for rank in range(7)]
    assert [each.superior for each in peers] == [0, 0, 0, 2, 2, 0, 0]
    assert [each.superior_address for each in peers] == [A_TO_G[i] for i in (0, 0, 0, 2, 2, 0, 0)]
    assert [sorted(each.members) for each in peers] == [[1, 2, 5, 6], [], [3, 4], [], [], [], []]
    assert [each.turn for each in peers] == [0, 0, 1 / 3, 0, 0, 2 / 3, 0]
    assert sorted(peers[0].addresses) == [1, 2, 3, 4, 5, 6]
    assert not peers[2].addresses


def test_ranks_behind_translated_addresses() -> None:
    bound = [("0.0.0.0", port) for _, port in A_TO_G]
    first = ("192.0.2.1", 100)
    peers = [find_peers(rank, NODES, bound, first) for rank in range(7)]
    assert peers[0].addresses == {}  # learned from what they send
    assert {each.superior_address for each in peers} == {first, ("127.0.0.1", 102)}


def test_an_address_that_contains_that_of_any_interface_is_kept() -> None:
    bound = [(f"10.0.0.{place}", port) for place, (_, port) in enumerate(A_TO_G)]
    bound[2] = ("10.0.0.0", 102)
    assert find_peers(3, NODES, bound, bound[0]).superior_address == ("10.0.0.0", 102)


@pytest.mark.parametrize("ranks", [0, 1, 7, 8, 64])
def test_reports_of_a_node_fit_into_few_datagrams(ranks: int) -> None:
    rows = [to_row(rank, REPORT) for rank in range(4096, 4096 + ranks)]
    parts = in_datagrams(rows)
    assert [row for part in parts for row in part] == rows
    assert len(parts) == max(1, -(-ranks // 20)) if ranks < 64 else len(parts) <= 4
    longest = max(len(json.dumps({"rank": 4095, "report": vars(REPORT), "others": part})) for part in parts)
    assert longest < 1400 < LONGEST
    assert dict(from_row(row, "node") for row in rows) == dict.fromkeys(range(4096, 4096 + ranks), REPORT)


@pytest.mark.parametrize(
    "row", [7, None, "abcdef", [], [1], [1, 2, 3, "x", 0], [1, 2, 3, 4, 0, 5], [1, -1, 3, "x", 0, 5]]
)
def test_rows_of_another_form_are_refused(row: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        from_row(row, "node")


class Nodes:
    """Two pretended nodes of three ranks whose heartbeats run in threads of this process."""

    def __init__(self, folder: Path, timeout: float) -> None:
        bound = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(6)]
        for each in bound:
            each.bind(("127.0.0.1", 0))
        addresses = [each.getsockname() for each in bound]
        self.heartbeats = [
            Heartbeat(
                World(rank=rank, size=6), folder, timeout=timeout, on_abort=print,
                met=(
                    Datagrams(each, b"k" * 32, timeout=0.05),
                    find_peers(rank, ["a"] * 3 + ["b"] * 3, addresses, addresses[0]),
                ),
            )
            for rank, each in enumerate(bound)
        ]  # fmt: skip
        self.first = self.heartbeats[0]

    def wait_until(self, happened: Callable[[], bool]) -> None:
        end = time.monotonic() + 20
        while not happened():
            assert time.monotonic() < end, self.first._seen
            for heartbeat in self.heartbeats:
                heartbeat.at("step")
            time.sleep(0.02)


def test_rank_0_hears_all_ranks_from_one_of_each_node(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path, timeout=60)
    for heartbeat in nodes.heartbeats:
        heartbeat._interval = 0.2
    with ExitStack() as running:
        for heartbeat in nodes.heartbeats:
            running.enter_context(heartbeat)
        nodes.wait_until(lambda: nodes.first.heard(60) == 6)
        nodes.wait_until(lambda: all(0 in heartbeat._seen for heartbeat in nodes.heartbeats))
        own = {rank: heartbeat._datagrams.own for rank, heartbeat in enumerate(nodes.heartbeats)}
        sent_to: list[int] = []
        take = nodes.first._take_reports

        def counted(rank: int, *arguments: Any) -> None:
            sent_to.append(rank)
            take(rank, *arguments)

        nodes.first._take_reports = counted  # type: ignore[method-assign]
        nodes.wait_until(lambda: len(sent_to) >= 12)
        assert set(sent_to) == {1, 2, 3}
        assert nodes.first._addresses == {rank: own[rank] for rank in range(1, 6)}


def test_a_rank_whose_node_has_no_speaker_reports_to_rank_0_until_it_has_one(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path, timeout=60)
    for heartbeat in nodes.heartbeats:
        heartbeat._interval = 0.2
    with ExitStack() as running:
        for rank in (0, 1, 2, 4, 5):  # rank 3, which speaks for 4 and 5, does not run
            running.enter_context(nodes.heartbeats[rank])
        nodes.wait_until(lambda: nodes.first.heard(60) == 5)
        assert 3 not in nodes.first._seen
        nodes.wait_until(lambda: 0 in nodes.heartbeats[4]._seen and 0 in nodes.heartbeats[5]._seen)
        assert find_hung(nodes.heartbeats[4]._seen, time.monotonic(), 60) is None
        running.enter_context(nodes.heartbeats[3])  # from now on 4 and 5 need no reply of rank 0
        told = [nodes.heartbeats[rank]._superior_at for rank in (4, 5)]
        nodes.wait_until(lambda: min(nodes.heartbeats[4 + i]._superior_at - told[i] for i in range(2)) > 1.0)
        nodes.wait_until(lambda: 3 in nodes.first._seen)


RANK = """
import os, sys, time
from pathlib import Path
from climax_hpc.distributed import datagrams, process_group
from climax_hpc.distributed.heartbeat import Heartbeat
datagrams.node_name = lambda: "ab"[int(os.environ["RANK"]) // 2]
world = process_group.connect()
with Heartbeat(world, Path(sys.argv[1]), timeout=4, on_abort=lambda _: None) as heartbeat:
    for step in range(5):
        heartbeat.at("step")
    print("running", flush=True)
    for step in range(10_000):
        if Path(sys.argv[1], f"fail_{world.rank}").exists():
            heartbeat.fail(7)
            os._exit(7)
        heartbeat.at("step")
        time.sleep(0.02)
"""


@pytest.fixture
def four_ranks(tmp_path: Path) -> Any:
    """Processes of four ranks on two pretended nodes, of which ranks 0 and 2 are the first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": "4"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | address | {"RANK": str(rank), "LOCAL_RANK": str(rank % 2), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(4)
    ]  # fmt: skip
    try:
        for process in processes:
            assert process.stdout
            assert process.stdout.readline() == "running\n"
        time.sleep(2)  # two intervals: rank 0 has heard all of them
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [2, pytest.param(3, marks=pytest.mark.faults)])
def test_a_stopped_rank_of_another_node_is_named(four_ranks: list[subprocess.Popen[str]], stopped: int) -> None:
    four_ranks[stopped].send_signal(signal.SIGSTOP)
    begin = time.monotonic()
    others = [process for rank, process in enumerate(four_ranks) if rank != stopped]
    assert [process.wait(timeout=30) for process in others] == [EXIT_RANK_LOST] * 3
    assert time.monotonic() - begin > 2
    errors = "".join(process.communicate()[1] for process in others)
    assert errors.count("climax-hpc: error: ") == 1, errors
    assert f"climax-hpc: error: rank {stopped} gives no sign of life since " in errors
    four_ranks[stopped].send_signal(signal.SIGCONT)
    assert four_ranks[stopped].wait(timeout=30) == EXIT_RANK_LOST


@pytest.mark.slow
@pytest.mark.faults
def test_a_rank_that_fails_ends_the_other_node_too(four_ranks: list[subprocess.Popen[str]], tmp_path: Path) -> None:
    (tmp_path / "fail_3").touch()
    assert [process.wait(timeout=30) for process in four_ranks] == [7] * 4
