"""A start costs a rank and a node the same at any number of nodes; a read that grows with the ranks is noticed."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from .start_up_calls import RankFigures, Row, differences, growths, job, measure, table
from .start_up_jobs import STARTS, Job, Topology, node_label
from .system_calls import Call, calls_of_processes, count, read_calls

EIGHT = Topology(ranks=8, per_node=4)
SIXTEEN = Topology(ranks=16, per_node=4, simulated=True)
TWELVE = Job(folder="twelve_real", ranks=12, per_node=2, most_watched=8, starts=STARTS[:2])
MANIFEST = "open(f'{job.dataset}/manifest.json').close()"
FILES_OF_ALL = (
    "import os; [os.path.exists(f'{job.run_folder}/state_of_rank_{other}') for other in range(3 * job.ranks)]"
)
FAULTS = {"none": "", "reads": f"{MANIFEST}; {FILES_OF_ALL}"}


@pytest.fixture(scope="module")
def rows() -> dict[str, list[Row]]:
    """Rows of two topologies: all starts as they are, and the first start of ranks that read too much.

    And of one where strace does not watch all ranks, with real ranks and with the stand-in.
    """
    planned = [
        Job(folder=f"{name}_{each.ranks}", fault=fault, starts=STARTS[:1] if fault else STARTS, **asdict(each))
        for name, fault in FAULTS.items()
        for each in (EIGHT, SIXTEEN)
    ]
    planned += [TWELVE, replace(TWELVE, folder="twelve_part", simulated=True)]
    found = measure(planned)
    every = 2 * len(STARTS)
    return {"none": found[:every], "reads": found[every : every + 2], "both ways": found[every + 2 :]}


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="no strace on PATH: apt install strace")


@pytest.mark.exhaustive
@needs_strace
def test_nothing_grows_with_the_nodes(rows: dict[str, list[Row]]) -> None:
    found = rows["none"]
    assert growths(found) == []
    assert [(row.topology.ranks, row.start) for row in found] == [(n, start) for n in (8, 16) for start in STARTS]
    for row in found:
        assert len(row.ranks) == 8
        assert min(each.opens for each in row.ranks) >= 4  # a shard and the climatology: checked, then opened
        assert row.ranks[0].opens > row.ranks[7].opens
        assert row.ranks[7].collectives > 10
    assert found[0].ranks[7].sends
    assert found[3].ranks[7].sends is None
    assert len(table(found).splitlines()) == 2 + 6 + 1 + 2 + 2


@pytest.mark.exhaustive
@needs_strace
def test_a_simulated_rank_asks_for_the_same_files_as_a_real_one(rows: dict[str, list[Row]]) -> None:
    real, simulated = (rows["none"][number * len(STARTS) + 1] for number in range(2))
    for name in ("opens", "stats", "files_held", "collectives"):
        assert simulated.figure(name, "rank") == real.figure(name, "rank"), name
        assert simulated.figure(name, "node") == real.figure(name, "node"), name


@pytest.mark.exhaustive
@needs_strace
def test_the_stand_in_gives_the_figures_of_real_ranks(rows: dict[str, list[Row]]) -> None:
    found = rows["both ways"]
    assert [(row.topology.simulated, len(row.ranks)) for row in found] == [(False, 12)] * 2 + [(True, 4)] * 2
    assert differences(found) == []
    real = found[1]
    assert [rank for rank, each in enumerate(real.ranks) if each.opens is None] == [4, 5, 8, 9]
    assert all(each.sockets and each.files_held and each.collectives for each in real.ranks)


@pytest.mark.exhaustive
@needs_strace
@pytest.mark.parametrize("rank", [5, 7])
def test_a_rank_that_fails_ends_all(rank: int) -> None:
    """Rank 5 is not watched, rank 7 is; the others wait for it."""
    with pytest.raises(RuntimeError, match=f"no rank {rank}"):
        measure([replace(TWELVE, fault=f"assert rank != {rank}, 'no rank {rank}'")])


@pytest.mark.exhaustive
@needs_strace
def test_what_every_rank_reads_is_noticed(rows: dict[str, list[Row]]) -> None:
    found = growths(rows["reads"])
    for line in ("first start: one file is opened 1", "first start, stats of node: ", "first start, stats of rank: "):
        assert any(each.startswith(line) for each in found), found


def row(topology: Topology, **figures: float) -> Row:
    """A row whose ranks all have these figures."""
    plain = dict.fromkeys(RankFigures.__dataclass_fields__, 100)
    ranks = [RankFigures(**plain | figures) for _ in range(topology.running)]  # type: ignore[arg-type]
    return Row(topology=topology, start="second", ranks=ranks, opens_of_one_file=2)


@pytest.mark.parametrize(
    ("figure", "allowed", "refused"),
    [
        ("opens", 110, 120),
        ("bytes_read", 1000, 1200),
        ("datagrams", 110, 125),
        ("collective_bytes", 2000, 2400),
        ("sockets", 10**6, None),
    ],
)
def test_limits(figure: str, allowed: int, refused: int | None) -> None:
    assert growths([row(EIGHT), row(SIXTEEN, **{figure: allowed})]) == []
    if refused:
        lines = growths([row(EIGHT), row(SIXTEEN, **{figure: refused})])
        assert lines
        assert all(f"second start, {figure.replace('_', ' ')} of " in line for line in lines)


def test_the_most_of_ranks_that_copied_is_not_compared_with_that_of_one_node_where_rank_0_did() -> None:
    one_node = row(Topology(ranks=4, per_node=4))
    lines = {
        start: growths([replace(each, start=start) for each in (one_node, row(EIGHT, opens=130))])
        for start in ("second", "staged")
    }
    assert any("opens of rank:" in line for line in lines["second"])
    assert not any("opens of rank:" in line for line in lines["staged"])


def test_differences_between_real_and_simulated_ranks() -> None:
    part = replace(EIGHT, ranks=16, simulated=True)
    real = row(replace(part, simulated=False))
    assert differences([real, row(part, sends=3, datagrams=1, bytes_read=101)]) == []
    assert differences([real, row(EIGHT, opens=3)]) == []  # another run
    node = Topology(ranks=4, per_node=4)
    assert differences([row(node), row(replace(node, simulated=True))]) == []  # no other node
    assert differences([row(part, opens=101), real]) == [
        "second start of 16 ranks, opens of rank 0: 100 real, 101 simulated",
        "second start of 16 ranks, opens of rank: 100 real, 101 simulated",
        "second start of 16 ranks, opens of first node: 400 real, 404 simulated",
        "second start of 16 ranks, opens of node: 400 real, 404 simulated",
    ]


def test_watched_ranks() -> None:
    assert TWELVE.watched == [0, 1, 2, 3, 6, 7, 10, 11]
    assert TWELVE.unwatched == [4, 5, 8, 9]
    large = job(256, 8, simulated=False)
    assert large.watched == [*range(16), *range(128, 136), *range(248, 256)]
    assert large.interval == 4
    for other, interval in ((job(64, 8, simulated=False), 1), (job(4096, 8, simulated=True), 8)):
        assert other.watched == list(range(other.running))
        assert not other.unwatched
        assert other.interval == interval


def trace(folder: Path, lines: Sequence[str]) -> list[Call]:
    """What strace would have written."""
    path = folder / "thread.1"
    path.write_text("\n".join(lines))
    return read_calls(path)


def test_calls_are_counted_by_kind(tmp_path: Path) -> None:
    place = str(Path("/", "d"))
    calls = trace(
        tmp_path,
        [
            '1.0 openat(AT_FDCWD</home>, "/d/a.h5", O_RDONLY) = 3</d/a.h5>',
            '1.1 newfstatat(3</d/a.h5>, "", {...}, AT_EMPTY_PATH) = 0',
            '1.2 pread64(3</d/a.h5>, ""..., 100, 0) = 70',
            "1.3 close(3</d/a.h5>) = 0",
            '1.4 newfstatat(AT_FDCWD</home>, "/data/b", 0x1, 0) = -1 ENOENT (No such file or directory)',
            "1.5 getdents64(4</d>, 0x1 /* 3 entries */, 32768) = 80",
            "1.6 writev(9<socket:[17]>, [...], 1) = 48",
            '1.7 sendto(8<socket:[18]>, ""..., 40, MSG_NOSIGNAL, NULL, 0) = 40',
            '1.8 sendto(7<socket:[19]>, ""..., 90, 0, {sa_family=AF_INET, sin_port=htons(1), …}, 16) = 90',
            '1.9 sendto(7<socket:[19]>, "", 0, 0, {sa_family=AF_INET, sin_port=htons(1), …}, 16) = 0',
            "2.0 sendto(6<socket:[20]>, ..., 20, 0, {sa_family=AF_NETLINK, nl_pid=0, nl_groups=00000000}, 12) = 20",
            "2.1 read(3</d/a.h5>,  <unfinished ...>) = ?",
        ],
    )
    found = count(calls, [place])
    assert (found.opens, found.stats, found.reads, found.others, found.bytes_read) == (1, 1, 2, 1, 70)
    assert (found.sends, found.store_sends, found.datagrams) == (1, 1, 1)
    assert found.opened == {f"{place}/a.h5": 1}


def test_threads_count_for_their_process() -> None:
    def call(at: float, name: str, result: int) -> Call:
        return Call(at, name, "", result, "")

    traces = {1: [call(1, "clone3", 3), call(2, "clone", -1)], 2: [call(4, "read", 0)], 3: [call(3, "clone3", 4)]}
    traces[4] = [call(2.5, "open", 5)]
    first, second = calls_of_processes(traces, [1, 2])
    assert [each.at for each in first] == [1, 2, 2.5, 3]
    assert [each.at for each in second] == [4]


def test_topologies() -> None:
    large = Topology(ranks=4096, per_node=8, simulated=True)
    assert (large.nodes, large.running, large.node(15)) == (512, 16, node_label(1))
    assert (EIGHT.nodes, EIGHT.running) == (2, 8)
