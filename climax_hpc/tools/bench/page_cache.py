"""Empties the page cache of single files, for reads as from a file system that nobody used before."""

import errno
import os
import time
from collections.abc import Iterable
from pathlib import Path

from climax_hpc.kernels.benchmarking import WrongResult

ATTEMPTS = 20
"""How often a file is evicted before it is given up."""


def empty_page_cache(paths: Iterable[Path]) -> None:
    """Evict files from the page cache.

    Raises:
        WrongResult: they stay, because the file system is in memory.
    """
    for path in paths:
        if not any(_evicted(path) for _ in range(ATTEMPTS)):
            raise WrongResult(f"{path}: cannot be evicted from the page cache; set TMPDIR to a folder on a disk")


def _evicted(path: Path) -> bool:
    """True if the operating system has evicted a file from the page cache; pages in use stay.

    False if the file system does not support the query, such as one in memory.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.preadv(descriptor, [bytearray(4096)], path.stat().st_size // 2, os.RWF_NOWAIT)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
    finally:
        os.close(descriptor)
    time.sleep(0.1)
    return False
