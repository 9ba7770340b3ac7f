"""Runs whose starts are counted: ranks on pretended nodes. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

STARTS = ("first", "second", "staged")
"""A new run; one that resumes; one that resumes and copies the data to a local disk of each node."""
INTERVAL = 1.0
"""Between two heartbeats [s]."""
INTERVALS = 3
"""Heartbeats that are counted."""
_RUNNING_NODES = 2


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
