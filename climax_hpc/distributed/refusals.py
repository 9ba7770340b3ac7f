"""A refusal that every rank finds by itself, such as that of a config, is printed by one rank of each node only.

Before the ranks are connected they cannot agree who reports it, so they do by a name in Linux's abstract socket
namespace: the first rank with the same message takes it, prints, and holds it for some seconds before it ends. A rank
that alone refuses something has a name to itself, and prints.
"""

import atexit
import hashlib
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from climax_hpc.distributed.launcher import LAUNCHERS, OtherRankFailed, detect
from climax_hpc.errors import UserError

_SECONDS = 5.0
"""For which the name is held: ranks that start together come to the same line within that time."""
_JOB = (
    "SLURM_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID", "MASTER_PORT", "PMIX_NAMESPACE", "PBS_JOBID", "LSB_JOBID",
)  # fmt: skip
"""Variables that tell one job from another."""
_held: dict[str, socket.socket] = {}


@contextmanager
def refused_once() -> Iterator[None]:
    """Within the block, a UserError of ranks that are not connected passes on one rank of a node only.

    Raises:
        UserError: on this rank.
        OtherRankFailed: on the others with the same message, with the exit status of bad input.
    """
    try:
        yield
    except UserError as error:
        if _is_one_of_many() and not _connected() and not _first_to_say(str(error), os.environ):
            raise OtherRankFailed from None
        raise


def _is_one_of_many() -> bool:
    try:
        return detect().size > 1
    except UserError:  # the launcher's variables are incomplete: the refusal itself
        return any(os.environ.get(launcher.rank) for launcher in LAUNCHERS)


def _connected() -> bool:
    """True where the ranks have agreed who reports an error (`process_group.on_all`); imports no torch for it."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.distributed.is_initialized()


def _first_to_say(message: str, environment: Mapping[str, str]) -> bool:
    job = [environment.get(name, "") for name in _JOB]
    key = "\0".join([message, str(os.geteuid()), os.getcwd(), *sys.argv, *job])
    name = f"\0climax_hpc-{hashlib.sha256(key.encode('utf-8', 'replace')).hexdigest()[:32]}"
    if name in _held:
        return True
    taken = socket.socket(socket.AF_UNIX)
    try:
        taken.bind(name)
    except OSError:  # another rank has it; or there are no such names here, and then every rank prints
        taken.close()
        return not sys.platform.startswith("linux")
    if not _held:
        atexit.register(time.sleep, _SECONDS)
    _held[name] = taken
    return True
