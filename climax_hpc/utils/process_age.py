"""How long ago this process was started."""

import os
import time
from pathlib import Path

_IMPORTED = time.monotonic()


def process_age() -> float:
    """Seconds since this process was started, to 0.01 s; where the system has no /proc, since this module was imported.

    An `exec` does not count as a start: a launcher that becomes this process is part of it.
    """
    try:
        # The second field, the name, may contain blanks; the start, in ticks since boot, is the 20th after it.
        ticks = int(Path("/proc/self/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return time.monotonic() - _IMPORTED
