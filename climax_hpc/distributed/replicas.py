"""Which ranks compute for which replica of the network: `train.sequence_parallel` consecutive ranks share samples."""

from dataclasses import dataclass
from functools import cache

import torch.distributed

from climax_hpc.distributed import process_group
from climax_hpc.distributed.launcher import World
from climax_hpc.errors import UserError
from climax_hpc.model.band import RowBand, register_group


@dataclass(frozen=True, kw_only=True)
class Replica:
    """The replica that this rank computes for; its ranks have the same samples."""

    number: int
    """From 0."""
    count: int
    """Number of replicas, which share the micro-batches of a step."""
    band: RowBand | None
    """The rows of a sample that this rank owns; None: all."""


def replica_of(
    world: World, sequence_parallel: int, *, longest_wait: float = 0.0, key: str = "train.sequence_parallel"
) -> Replica:
    """The replica of this rank; with several ranks in each, all ranks call this together.

    Args:
        longest_wait: as of `process_group.connect`.
        key: name of the setting, for messages.

    Raises:
        UserError: the number of ranks is not a multiple of `sequence_parallel`.
    """
    number, place = divmod(world.rank, sequence_parallel)
    band = None
    if sequence_parallel > 1:
        process_group.on_all(lambda: check_groups(world.size, sequence_parallel, key))
        band = RowBand(place=place, size=sequence_parallel, group=_own_group(sequence_parallel, longest_wait))
    return Replica(number=number, count=world.size // sequence_parallel, band=band)


def check_groups(ranks: int, size: int, key: str) -> None:
    """Refuse a number of ranks that cannot form groups of `size`; `key`: name of the setting.

    Raises:
        UserError: names both.
    """
    if ranks % size:
        raise UserError(
            f"{key} = {size}: {ranks} rank{'s' if ranks > 1 else ''} cannot form groups of {size}: "
            f"start a multiple of {size}, or change {key}"
        )


@cache
def _own_group(size: int, longest_wait: float) -> str:
    """Name of the registered group of this rank's replica; the first call is a collective."""
    first = torch.distributed.get_rank() // size * size
    own = f"ranks {first} to {first + size - 1}"
    register_group(own, process_group.group_of_neighbours(size, longest_wait, "samples"))
    return own
