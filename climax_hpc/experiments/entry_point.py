"""Runs a command of the experiments: bad input is one line on standard error, Ctrl-C ends without a traceback."""

import sys
from collections.abc import Callable

from climax_hpc.errors import EXIT_BAD_INPUT, UserError

_EXIT_INTERRUPTED = 130


def run_as_command(name: str, action: Callable[[], None]) -> None:
    """Run `action`; UserError ends with EXIT_BAD_INPUT, Ctrl-C with 130, each with one line that begins with `name`."""
    try:
        action()
    except UserError as error:
        print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        sys.exit(EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        print(f"{name}: interrupted; start it again to resume", file=sys.stderr)
        sys.exit(_EXIT_INTERRUPTED)
