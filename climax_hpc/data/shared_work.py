"""What one rank reads or computes for all: a run of a thousand ranks asks the file system as often as one rank does.

The ranks of a group call these functions together; without a process group they work alone.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray

from climax_hpc.data.dataset import DataSet
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.distributed import process_group
from climax_hpc.shards.manifest import manifest_bytes

Result = TypeVar("Result")


def read_by_first(function: Callable[[], Result]) -> Result:
    """The result of rank 0, which alone calls the function, on all ranks; it must be picklable.

    Raises:
        UserError: and anything else that the function raises, on rank 0; `OtherRankFailed` on the others.
    """
    return process_group.from_first(function) if torch.distributed.is_initialized() else function()


def open_dataset(folder: str | Path) -> DataSet:
    """The packed data set, whose manifest rank 0 reads for all.

    Raises:
        UserError: as `DataSet`.
    """
    path = Path(folder).expanduser()
    return DataSet(path, manifest=read_by_first(lambda: manifest_bytes(path)))


def share_headers(sources: Sequence[PackedSource]) -> None:
    """Give all ranks what the headers of the sources say; rank 0 reads them.

    Raises:
        UserError: a file is absent or damaged.
    """
    for source, headers in zip(sources, read_by_first(lambda: [s.headers for s in sources]), strict=True):
        source.headers = headers


def computed_in_shares(sizes: Sequence[int], compute: Callable[[int], NDArray[Any]]) -> list[NDArray[np.float64]]:
    """`compute(0)`, `compute(1)`, …, arrays of these numbers of elements, on all ranks, each computed by one rank.

    No sum is taken over ranks, so what the caller sums in this order has the same bits for any number of ranks. The
    ranks exchange results after each has computed one: none waits longer than one takes.

    Raises:
        UserError: and anything else that `compute` raises, on the first rank that failed; `OtherRankFailed` on others.
    """
    bounds = [0, *accumulate(sizes)]
    flat = np.zeros(bounds[-1])
    rank, ranks = 0, 1
    if torch.distributed.is_initialized():
        rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()

    def own(number: int) -> None:
        if number < len(sizes):
            flat[bounds[number] : bounds[number + 1]] = compute(number).ravel()

    for first in range(0, len(sizes), ranks):
        if ranks == 1:
            own(first)
            continue
        process_group.on_all(lambda number=first + rank: own(number))  # type: ignore[misc]
        last = min(first + ranks, len(sizes))
        torch.distributed.all_reduce(torch.from_numpy(flat[bounds[first] : bounds[last]]))  # zero but on one rank
    return [flat[start:end] for start, end in pairwise(bounds)]
