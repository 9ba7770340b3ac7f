"""What a start costs a rank and a node of 8 to thousands of ranks: file-system calls, descriptors, messages.

python -m tests.training.start_up_calls --ranks 8 64 512 4096

Up to `--most-processes` all ranks are real processes of pretended nodes (`light_ranks.py`), connected by gloo. Above it
the ranks of the first two nodes are, and `stand_in.py` completes what they exchange with the ranks of all other nodes:
what connections carry is not known then. strace counts the calls on the data set, the run folder and the local disk of
the node: of all ranks that run, or, above 64, of four nodes. Every rank counts its descriptors and collectives itself.
The exit status is 1 where a figure grows with the number of nodes by more than `LIMITS` allows, or where a run made
`--both-ways` differs.
"""

import argparse
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

from climax_hpc.utils.folder_lock import LOCK
from tests.training.rank_servers import run_jobs
from tests.training.start_up_jobs import INTERVALS, STARTS, Job, Topology
from tests.training.system_calls import Call, Counts, calls_of_processes, count, read_calls


@dataclass(frozen=True, kw_only=True)
class RankFigures:
    """What one rank does up to the first batch of a start, and then for some heartbeats."""

    opens: int | None
    """None, as all calls, where strace does not watch the rank."""
    stats: int | None
    other_calls: int | None
    """On files: reads, lists, writes, locks, renamings."""
    bytes_read: int | None
    files_held: int
    """Open files of the data set, the run folder and the local disk."""
    sockets: int | None
    """None where the process group is a stand-in, as below."""
    collectives: int
    collective_bytes: int
    """That collectives leave on this rank."""
    sends: int | None
    store_sends: int | None
    datagrams: float | None
    """Per interval between heartbeats."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One start on one topology."""

    topology: Topology
    start: str
    ranks: list[RankFigures]
    """Of those that run."""
    opens_of_one_file: int
    """The most opens by all ranks of one file that is no HDF5 file and not on a local disk."""

    def of_node(self, name: str, node: int) -> float | None:
        """Sum of a figure over the ranks of a node."""
        first = node * self.topology.per_node
        values = [getattr(each, name) for each in self.ranks[first : first + self.topology.per_node]]
        return None if None in values else sum(values)

    def figure(self, name: str, of: str) -> float | None:
        """A figure of rank 0, its sum over the first node, or the most of another rank or node."""
        if of == "rank 0":
            value: float | None = getattr(self.ranks[0], name)
            return value
        if of == "first node":
            return self.of_node(name, 0)
        if of == "rank":
            values = [getattr(each, name) for each in self.ranks[1:]]
        else:
            values = [self.of_node(name, node) for node in range(1, len(self.ranks) // self.topology.per_node)]
        return max((value for value in values if value is not None), default=None)


@dataclass(frozen=True, kw_only=True)
class Limit:
    """How far a figure may grow from a smaller run to a larger one: a tenth, and what is stated here."""

    figures: tuple[str, ...]
    of: tuple[str, ...]
    """See `Row.figure`."""
    more: Callable[[Topology, Topology], float]
    """The smaller and the larger topology -> growth."""
    reason: str = ""


SAME = ("opens", "stats", "bytes_read", "files_held", "collectives", "collective_bytes")
"""Figures that the stand-in must give as real ranks do."""
NEARLY = {"bytes_read": 64}
"""How far two may differ: locks hold numbers of processes and times, which have more or fewer digits."""
SAME_STAGED = ("opens", "bytes_read", "collectives")
"""The same at a staged start, summed over a node, one of whose ranks copies."""
_NODES = ("first node", "node")
LIMITS = (
    Limit(figures=("files_held", "collectives"), of=("rank 0", "rank"), more=lambda small, large: 3),
    Limit(figures=("opens", "stats"), of=_NODES, more=lambda small, large: 3 * large.per_node),
    Limit(figures=("opens", "stats", "other_calls"), of=("rank",), more=lambda small, large: 8),
    Limit(figures=("other_calls",), of=("node",), more=lambda small, large: 3 * large.per_node),
    Limit(figures=("bytes_read",), of=("node",), more=lambda small, large: 4096),
    Limit(
        figures=("other_calls",),
        of=("first node",),
        more=lambda small, large: 3 * large.per_node + (large.ranks - small.ranks) / 100,
        reason="rank 0 lists the files of the checkpoint, one of each rank",
    ),
    Limit(
        figures=("bytes_read",),
        of=("first node",),
        more=lambda small, large: 4096 + 192 * (large.ranks - small.ranks),
        reason="rank 0 reads the hashes of the checkpoint, one of each rank",
    ),
    Limit(
        figures=("datagrams",),
        of=("first node",),
        more=lambda small, large: 3 + 2 * (large.nodes - small.nodes),
        reason="rank 0 answers a datagram of each node; a busy machine may take those of two intervals in one",
    ),
    Limit(figures=("datagrams",), of=("node",), more=lambda small, large: 3),
    Limit(
        figures=("collective_bytes",),
        of=("rank 0", "rank"),
        more=lambda small, large: 256 * (large.ranks - small.ranks),
        reason="names and addresses of all ranks, and the hashes of their files, reach every rank",
    ),
)


def measure(planned: Sequence[Job]) -> list[Row]:
    """Make the starts of these runs, whose folders are names, and count."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        jobs = [replace(each, folder=str(folder / each.folder)) for each in planned]
        for each in jobs:
            Path(each.folder).mkdir()
        try:
            traces = run_jobs(jobs, folder)
        except RuntimeError as error:
            written = sorted(folder.glob("*/*.log"), key=lambda log: log.stat().st_mtime_ns)  # the first failed itself
            logs = [log.read_text()[-1500:] for log in written if "Error" in log.read_text()]
            raise RuntimeError("\n".join([str(error), *logs[:2]])) from None
        calls = {int(path.suffix[1:]): read_calls(path) for path in traces.iterdir()}
        return [_row(each, start, calls) for each in jobs for start in each.starts]


def _row(each: Job, start: str, calls: dict[int, list[Call]]) -> Row:
    marks = _marks(Path(each.folder, "marks", start), calls)
    mains = [marks[str(rank)] for rank in each.watched]
    lock = re.compile(re.escape(each.stage) + ".*" + re.escape(LOCK))  # of the local disk: waiting ranks poll it
    threads = [
        [call for call in of_rank if not lock.search(call.arguments)]
        for of_rank in calls_of_processes(calls, [main for main, _ in mains])
    ]
    places = [each.dataset, each.run_folder, each.stage]
    counts, openers = dict[int, tuple[Counts, Counts]](), dict[str, Counter[int]]()
    for rank, (_, at), of_rank in zip(each.watched, mains, threads, strict=True):
        before = count((call for call in of_rank if at["begin"] <= call.at < at["started"]), places)
        counts[rank] = before, count((call for call in of_rank if at["started"] <= call.at < at["end"]), places)
        for path, times in before.opened.items():
            openers.setdefault(path, Counter())[rank] = times
    figures = [_figures(each, start, rank, counts.get(rank), places) for rank in range(each.running)]
    shared = (by for path, by in openers.items() if not path.endswith(".h5") and not path.startswith(each.stage))
    return Row(topology=each, start=start, ranks=figures, opens_of_one_file=max(_opens(by, each) for by in shared))


def _opens(by: Counter[int], job: Job) -> int:
    """Opens of a file by all ranks; `by`: of those that are watched. Other nodes do as the last of them does."""
    last = [times for rank, times in by.items() if rank in job.watched[-job.per_node :]]
    missing = job.nodes - len(job.watched) // job.per_node
    return by.total() + missing * (sum(last) if len(last) > 1 else 0)  # one rank's own file has another name elsewhere


def _marks(folder: Path, calls: dict[int, list[Call]]) -> dict[str, tuple[int, dict[str, float]]]:
    """Rank -> its first thread and the times of its marks."""
    found: dict[str, tuple[int, dict[str, float]]] = {}
    for thread, of_thread in calls.items():
        for call in of_thread:
            if call.name == "newfstatat" and f'"{folder}/' in call.arguments:
                rank, what = call.arguments.partition(f'"{folder}/')[2].partition('"')[0].split("/")
                found.setdefault(rank, (thread, {}))[1][what] = call.at
    return found


def _figures(
    job: Job, start: str, rank: int, counts: tuple[Counts, Counts] | None, places: Sequence[str]
) -> RankFigures:
    """Figures of a rank; `counts`: up to the first batch, and then of heartbeats, if it is watched."""
    found: dict[str, Any] = json.loads(Path(job.folder, f"{start}_{rank}.json").read_text())
    held, collectives = found["descriptors"], dict(found["collectives"])
    size = collectives.pop("bytes")
    before, beats = counts or (None, None)
    connected = before if not job.simulated else None
    return RankFigures(
        opens=before and before.opens,
        stats=before and before.stats,
        other_calls=before and before.reads + before.others,
        bytes_read=before and before.bytes_read,
        files_held=sum(n for path, n in held.items() if path.startswith(tuple(places))),
        sockets=None if job.simulated else held.get("socket", 0),
        collectives=sum(collectives.values()),
        collective_bytes=size,
        sends=connected and connected.sends,
        store_sends=connected and connected.store_sends,
        datagrams=beats and round(beats.datagrams / INTERVALS, 1),
    )


def growths(rows: Sequence[Row]) -> list[str]:
    """A line for each figure that grows from one topology to a larger one by more than `LIMITS` allows."""
    lines = []
    for start in STARTS:
        of_start = [row for row in rows if row.start == start]
        for small, large in pairwise(of_start):
            lines += [
                line
                for limit in LIMITS
                for name in limit.figures
                for of in limit.of
                if _comparable(small, of) and (line := _growth(small, large, name, of, limit))
            ]
            if large.opens_of_one_file > small.opens_of_one_file:
                lines.append(
                    f"{start} start: one file is opened {large.opens_of_one_file} times by {large.topology.ranks} "
                    f"ranks, {small.opens_of_one_file} by {small.topology.ranks}"
                )
    return lines


def _comparable(small: Row, of: str) -> bool:
    """One rank of each node copies at a staged start: the most of ranks but 0 may lack it where there is one node."""
    return of != "rank" or small.start != "staged" or small.topology.nodes > 1


def _growth(small: Row, large: Row, name: str, of: str, limit: Limit) -> str | None:
    before, now = small.figure(name, of), large.figure(name, of)
    if before is None or now is None:
        return None
    most = 1.1 * before + limit.more(small.topology, large.topology)
    if now <= most:
        return None
    return (
        f"{large.start} start, {name.replace('_', ' ')} of {of}: {before:g} with {small.topology.ranks} ranks, {now:g} "
        f"with {large.topology.ranks}, above {most:.0f}"
    )


def differences(rows: Sequence[Row]) -> list[str]:
    """A line for each figure that differs where a run was made with real ranks and with the stand-in."""
    lines = []
    for real, simulated in permutations(rows, 2):
        if (real.start, real.topology.ranks) != (simulated.start, simulated.topology.ranks):
            continue
        if real.topology.simulated or not simulated.topology.simulated:
            continue
        staged = real.start == "staged"
        for name in SAME_STAGED if staged else SAME:
            for of in ("first node", "node") if staged else ("rank 0", "rank", "first node", "node"):
                one, other = real.figure(name, of), simulated.figure(name, of)
                if one is not None and other is not None and abs(one - other) > NEARLY.get(name, 0):
                    lines.append(
                        f"{real.start} start of {real.topology.ranks} ranks, {name.replace('_', ' ')} of {of}: "
                        f"{one:g} real, {other:g} simulated"
                    )
        if real.opens_of_one_file != simulated.opens_of_one_file:
            lines.append(
                f"{real.start} start of {real.topology.ranks} ranks, opens of one file: {real.opens_of_one_file} real, "
                f"{simulated.opens_of_one_file} simulated"
            )
    return lines


def job(ranks: int, per_node: int, *, simulated: bool) -> Job:
    """A run; both ways, its folder has a name of the same length, which files of the run repeat."""
    return Job(
        folder=f"{ranks}_{'part' if simulated else 'real'}",
        ranks=ranks,
        per_node=min(ranks, per_node),
        simulated=simulated,
    )


def _cell(row: Row, name: str, of: Sequence[str], scale: float = 1.0) -> str:
    values = [row.figure(name, each) for each in of]
    return ", ".join("–" if value is None else f"{value / scale:.0f}" for value in values)


def table(rows: Sequence[Row]) -> str:
    """All rows as Markdown: files, then connections and messages; "real (32)": 32 of the real ranks are watched."""
    who, ranks = ("rank 0", "rank", "node"), ("rank 0", "rank")
    lines = [
        "| ranks | ranks are | start | opens | stats | other calls | kB read | one file |",
        "|" + "---|" * 8,
    ]
    for row in rows:
        cells = [_cell(row, name, who) for name in ("opens", "stats", "other_calls")]
        cells += [_cell(row, "bytes_read", who, 1000.0), str(row.opens_of_one_file)]
        lines.append(_line(row, [row.start, *cells]))
    lines += [
        "",
        "| ranks | ranks are | files held | sockets | collectives | kB of them | sends | to store | beats |",
        "|" + "---|" * 9,
    ]
    for row in (row for row in rows if row.start == "second"):
        cells = [_cell(row, name, ranks) for name in ("files_held", "sockets", "collectives")]
        cells += [_cell(row, "collective_bytes", ranks, 1000.0), _cell(row, "sends", ranks)]
        cells += [_cell(row, "store_sends", ranks), _cell(row, "datagrams", who)]
        lines.append(_line(row, cells))
    return "\n".join(lines)


def _line(row: Row, cells: Sequence[str]) -> str:
    watched = sum(each.opens is not None for each in row.ranks)
    kind = "simulated" if row.topology.simulated else "real"
    kind += f" ({watched})" if watched < len(row.ranks) else ""
    return f"| {' | '.join([str(row.topology.ranks), kind, *cells])} |"


def main() -> None:
    """Print the tables and what grows."""
    parser = argparse.ArgumentParser(prog="python -m tests.training.start_up_calls", description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64, 512, 4096])
    parser.add_argument("--ranks-per-node", type=int, default=8)
    parser.add_argument("--most-processes", type=int, default=256, help="runs of more ranks are simulated")
    parser.add_argument("--both-ways", type=int, nargs="*", default=[], help="runs to make real and simulated")
    parser.add_argument("--json", type=Path, help="file for all figures of all ranks")
    options = parser.parse_args()
    ways = {(ranks, ranks > options.most_processes) for ranks in options.ranks}
    ways |= {(ranks, simulated) for ranks in options.both_ways for simulated in (False, True)}
    rows = measure([job(ranks, options.ranks_per_node, simulated=simulated) for ranks, simulated in sorted(ways)])
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if found := growths(rows) + differences(rows):
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
