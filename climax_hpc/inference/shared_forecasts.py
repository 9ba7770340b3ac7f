"""Forecasts that several ranks make together, a band of rows each (`sequence_parallel`); the first rank writes them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from climax_hpc.checkpoint.format import Checkpoint
from climax_hpc.config.sequence_parallel import check_shares
from climax_hpc.distributed import process_group
from climax_hpc.distributed.replicas import replica_of
from climax_hpc.errors import UserError
from climax_hpc.inference.writers import Writer
from climax_hpc.model.band import RowBand

_KEY = "sequence_parallel"


def shared_band(
    checkpoints: Mapping[str, Checkpoint], sequence_parallel: int, *, all_ranks: bool = False
) -> RowBand | None:
    """The rows of each forecast that this rank computes; None: all. All ranks call this together.

    `all_ranks`: there must be no other ranks.

    Raises:
        UserError: a network that so many ranks cannot share, or another number of ranks.
    """
    if sequence_parallel == 1:
        return None
    world = process_group.connect()

    def check() -> None:
        for checkpoint in checkpoints.values():
            check_shares(checkpoint.metadata.config, sequence_parallel, key=_KEY)
        if all_ranks and world.size != sequence_parallel:
            raise UserError(
                f"{_KEY} = {sequence_parallel}: start as many ranks (now {world.size}), once for each part of the "
                "period"
            )

    process_group.on_all(check)
    return replica_of(world, sequence_parallel, key=_KEY).band


@contextmanager
def written_by_first(opened: Callable[[], AbstractContextManager[Writer]], band: RowBand | None) -> Iterator[Writer]:
    """The writer that `opened` gives; with a band, only the first rank has it, and the others write nothing.

    Raises:
        UserError: as `opened`, on the first rank; `OtherRankFailed` on the others.
    """
    if band is None:
        with opened() as writer:
            yield writer
        return
    with ExitStack() as held:
        yield _OfFirst(process_group.on_first(lambda: held.enter_context(opened())))


class _OfFirst:
    """A `Writer` of all ranks, of which the first writes."""

    def __init__(self, writer: Writer | None) -> None:
        self._writer = writer

    def todo(self) -> list[int]:
        """What the first rank says."""
        return process_group.from_first(lambda: self._writer.todo() if self._writer else [])

    def open(self, places: Sequence[int]) -> None:
        """On the first rank only."""
        if self._writer:
            self._writer.open(places)

    def write(self, place: int, lead: int, member: int, fields_OHW: NDArray[Any]) -> None:
        """On the first rank only."""
        if self._writer:
            self._writer.write(place, lead, member, fields_OHW)

    def write_statistics(self, place: int, lead: int, members_MOHW: NDArray[Any]) -> None:
        """On the first rank only."""
        if self._writer:
            self._writer.write_statistics(place, lead, members_MOHW)

    def close(self) -> None:
        """On the first rank only."""
        if self._writer:
            self._writer.close()

    def finish(self) -> Path:
        """Finish the output; its path on every rank."""
        return process_group.from_first(lambda: self._writer.finish() if self._writer else Path())

    def abort(self) -> None:
        """On the first rank only."""
        if self._writer:
            self._writer.abort()
