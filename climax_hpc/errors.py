"""The one exception that the command line turns into a single clear line, and that line."""

import sys

ERROR_PREFIX = "climax-hpc: error: "
"""Begins every line of standard error that says why a command ends."""


class UserError(Exception):
    """Bad input: what is wrong, where (file or key), and the mend, in one line.

    The command line prints it as `climax-hpc: error: …` and exits with 2; library users can catch it.
    """


def tell_error(message: str) -> None:
    """Print why a command ends: one line, in one write, so that the lines of several ranks do not mix."""
    sys.stderr.write(f"{ERROR_PREFIX}{' '.join(message.split())}\n")
    sys.stderr.flush()
