"""Runs whose starts are counted: ranks on pretended nodes. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

STARTS = ("first", "second", "staged")
"""A new run; one that resumes; one that resumes and copies the data to a local disk of each node."""
INTERVALS = 3
"""Heartbeats that are counted."""
_RUNNING_NODES = 2
_PER_SECOND = 64
"""Heartbeats that ranks send, or that rank 0 answers."""


def node_label(node: int) -> str:
    """Name of a pretended node."""
    return f"node-{node:06d}"


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Ranks on nodes, numbered node by node."""

    ranks: int
    per_node: int
    simulated: bool = False
    """Only the ranks of the first two nodes run."""

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return self.ranks // self.per_node

    @property
    def running(self) -> int:
        """Number of ranks that run, from rank 0 on."""
        return min(self.ranks, _RUNNING_NODES * self.per_node) if self.simulated else self.ranks

    @property
    def interval(self) -> float:
        """Between two heartbeats of a rank [s]: longer where a busy machine runs or imitates many."""
        return min(max(1.0, self.running / _PER_SECOND, self.nodes / _PER_SECOND), 10.0)

    def node(self, rank: int) -> str:
        """Name of the node of a rank."""
        return node_label(rank // self.per_node)


@dataclass(frozen=True, kw_only=True)
class Job(Topology):
    """One run on a topology, started several times."""

    folder: str
    fault: str = ""
    """Python that every rank runs as it starts, with `rank` and `job`: what a test wants to see counted."""

    starts: Sequence[str] = STARTS
    """Those that are made, in order."""

    most_watched: int = 64
    """strace watches all ranks of a run of up to so many, and those of some nodes of a larger one."""

    @property
    def watched(self) -> list[int]:
        """Ranks whose system calls are counted: all, or those of the first, second, middle and last node."""
        if self.simulated or self.ranks <= self.most_watched:
            return list(range(self.running))
        nodes = sorted({0, 1, self.nodes // 2, self.nodes - 1})
        return [node * self.per_node + place for node in nodes for place in range(self.per_node)]

    @property
    def unwatched(self) -> list[int]:
        """The other ranks that run."""
        return sorted(set(range(self.running)) - set(self.watched))

    @property
    def settings(self) -> str:
        """File with the settings of the training."""
        return f"{self.folder}/settings.json"

    @property
    def dataset(self) -> str:
        """Folder of the data set."""
        return f"{self.folder}/data"

    @property
    def run_folder(self) -> str:
        """Folder of the run."""
        return f"{self.folder}/run"

    @property
    def stage(self) -> str:
        """Local disks of the nodes, a folder for each."""
        return f"{self.folder}/stage"
