"""Values of all ranks, combined on rank 0 along a tree: a rank exchanges about one message for each doubling of ranks.

gloo's rings, which serve its `all_gather` and `all_reduce`, take messages of every rank in proportion to the ranks. Its
`broadcast` goes down a tree as well, in which the parent of a rank is its number without the highest bit; here it is
that without the lowest. In both together a rank has at most one neighbour for each doubling of the ranks.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed

Value = TypeVar("Value")
_CPU = torch.device("cpu")


def combined_on_first(
    value: Value, combine: Callable[[Value, Value], Value], group: torch.distributed.ProcessGroup | None = None
) -> Value:
    """The values of all ranks combined, on rank 0; elsewhere those of some ranks. All ranks call this together.

    Args:
        value: of this rank; it must be picklable.
        combine: an associative function; values are combined in the order of ranks.
        group: a group of all ranks; None: the default one.
    """
    rank, ranks = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)
    distance = 1
    while distance < ranks:
        if rank & distance:
            torch.distributed.send_object_list([value], rank - distance, group=group, device=_CPU)
            break
        if rank + distance < ranks:
            received: list[Any] = [None]
            torch.distributed.recv_object_list(received, rank + distance, group=group, device=_CPU)
            value = combine(value, received[0])
        distance *= 2
    return value
