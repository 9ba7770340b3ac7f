"""A collective that failed because another rank is gone: how that is recognised, and how this rank ends."""

import contextlib
import re
from collections.abc import Iterator

import torch.distributed

from climax_hpc.distributed import process_group
from climax_hpc.distributed.launcher import World
from climax_hpc.distributed.signals import EXIT_RANK_LOST
from climax_hpc.errors import print_error

# Parts of the messages of gloo and NCCL about a lost peer; for gloo torch raises a plain RuntimeError.
_LOST = ("gloo", "Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "ProcessGroup")


class RankLost(SystemExit):
    """Ends a rank that has lost contact with another, after a message; exit status EXIT_RANK_LOST."""

    def __init__(self, message: str) -> None:
        super().__init__(EXIT_RANK_LOST)
        self.message = message


def is_lost_rank(error: BaseException) -> bool:
    """True for the error of a collective that misses a rank."""
    if not isinstance(error, RuntimeError):
        return False
    return isinstance(error, torch.distributed.DistError) or any(words in str(error) for words in _LOST)


def report_lost_rank(error: BaseException, world: World, advice: str) -> RankLost:
    """Print one line, and return what ends this rank."""
    reason = re.sub(r"^\[[^]]*\] ", "", str(error).splitlines()[0]).split(". ")[0]  # without gloo's source file
    message = (
        f"rank {world.rank} has lost contact with another rank ({reason}), which was killed or failed: see its message "
        f"or the scheduler's log; {advice}"
    )
    print_error(message)
    return RankLost(message)


@contextlib.contextmanager
def lost_ranks_reported(world: World, advice: str) -> Iterator[None]:
    """Within the block, a collective that misses a rank ends this rank with one line.

    Raises:
        RankLost: after the line.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_lost_rank(error):
            raise
        process_group.abandon(EXIT_RANK_LOST)
        raise report_lost_rank(error, world, advice) from None
