"""A process group that stands in for thousands of ranks, of which only those of the first two nodes run.

Each running rank has a pipe to a coordinator, which completes every collective: a rank of a node that does not run
gives what the rank in its place on the second node gives, with the name of its own node.
"""

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import reduce
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch._C._distributed_c10d import _create_work_from_future
from torch.distributed import ReduceOp

from climax_hpc.distributed import process_group
from climax_hpc.distributed.peers import Address

from .start_up_jobs import Topology, node_label

BACKEND = "stand_in"


class StandInGroup(torch.distributed.ProcessGroup):
    """The group as a running rank sees it: every collective is a question to the coordinator."""

    def __init__(self, rank: int, ranks: int, pipe: Connection) -> None:
        super().__init__(rank, ranks)
        self._pipe = pipe

    def getBackendName(self) -> str:
        """Name of the backend."""
        return BACKEND

    def _ask(self, kind: str, tensor: torch.Tensor, **details: Any) -> torch.Tensor:
        self._pipe.send((kind, tensor.numpy(), details))
        return torch.from_numpy(self._pipe.recv())

    def broadcast(self, tensors: list[torch.Tensor], opts: Any = None) -> Any:
        """Fill the tensor with that of the root."""
        tensors[0].copy_(self._ask("broadcast", tensors[0], root=opts.rootRank))
        return _done(tensors)

    def allreduce(self, tensors: list[torch.Tensor], opts: Any = None) -> Any:
        """Fill the tensor with the sum or the least of all ranks."""
        tensors[0].copy_(self._ask("allreduce", tensors[0], least=opts.reduceOp == ReduceOp.MIN))
        return _done(tensors)

    def barrier(self, opts: Any = None) -> Any:
        """Wait for all ranks."""
        self._ask("allreduce", torch.zeros(1), least=False)
        return _done([])


def _done(result: Any) -> Any:
    future: Any = torch.futures.Future()
    future.set_result(result)
    return _create_work_from_future(future)


def join(rank: int, ranks: int, pipe: Connection) -> None:
    """Make the group of a running rank the process group of its process."""

    def create(store: Any, group_rank: int, size: int, timeout: timedelta) -> StandInGroup:
        return StandInGroup(group_rank, size, pipe)

    def combined_on_first(value: Any, combine: Callable[[Any, Any], Any], group: Any = None) -> Any:
        """As `climax_hpc.distributed.tree` does it, whose messages go from rank to rank."""
        pipe.send(("combine", value, {}))
        values = pipe.recv()
        return reduce(combine, values) if rank == 0 else value

    torch.distributed.Backend.register_backend(BACKEND, create, devices=["cpu"])
    torch.distributed.init_process_group(BACKEND, store=torch.distributed.HashStore(), rank=rank, world_size=ranks)
    process_group.combined_on_first = combined_on_first
    process_group.second_group = lambda longest_wait: torch.distributed.new_group()  # type: ignore[assignment]


class Coordinator:
    """Completes the collectives of the running ranks, in a thread of the process that started them."""

    def __init__(self, topology: Topology, pipes: Sequence[Connection], on_key: Callable[[Address, bytes], None]):
        """Args: `on_key`: called with the address of rank 0's heartbeat and the key of the run, once it is known."""
        self._topology, self._pipes, self._on_key = topology, pipes, on_key
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def start(self) -> None:
        """Serve until the ranks end."""
        self._thread.start()

    def _serve(self) -> None:
        try:
            while True:
                wait(self._pipes)
                asked = [pipe.recv() for pipe in self._pipes]
                kinds = {kind for kind, _, _ in asked}
                assert len(kinds) == 1, f"ranks are in different collectives: {kinds}"
                reply = self._complete(asked[0][0], [given for _, given, _ in asked], asked[0][2])
                for rank, pipe in enumerate(self._pipes):
                    pipe.send(reply if kinds != {"combine"} or rank == 0 else None)
        except (EOFError, OSError):  # the ranks have ended
            return

    def _complete(self, kind: str, given: list[Any], details: dict[str, Any]) -> Any:
        if kind == "broadcast":
            return given[details["root"]]
        if kind == "allreduce":
            return self._reduced(given, least=details["least"])
        self._look_for_key(given[0])
        others = ((node, value) for node in self._missing for value in self._typical(given))
        return given + [_renamed(value, node_label(1), node_label(node)) for node, value in others]

    @property
    def _missing(self) -> range:
        """Nodes that do not run."""
        return range(self._topology.running // self._topology.per_node, self._topology.nodes)

    def _typical(self, given: list[Any]) -> list[Any]:
        """What the ranks of the second node gave."""
        return given[self._topology.per_node :]

    def _reduced(self, given: list[NDArray[Any]], *, least: bool) -> NDArray[Any]:
        if least:
            return np.asarray(np.min(given, axis=0))
        total = np.sum(given, axis=0)
        if self._missing:
            total = total + len(self._missing) * np.sum(self._typical(given), axis=0)
        return np.asarray(total, given[0].dtype)

    def _look_for_key(self, value: Any) -> None:
        """Rank 0 gives the address of its heartbeat and the key in one of the gatherings."""
        match value:
            case [((str(host), int(port)), bytes(key))] if key:
                self._on_key((host, port), key)


def _renamed(value: Any, old: str, new: str) -> Any:
    """A value of lists, tuples, texts and numbers with another name in it.

    Its texts are new objects, as those of a rank that runs: pickle writes an object that occurs twice only once.
    """
    if isinstance(value, str):
        return str(value.replace(old, new).encode(), "utf-8")
    if isinstance(value, list | tuple):
        return type(value)(_renamed(each, old, new) for each in value)
    return value
