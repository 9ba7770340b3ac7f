"""UserError, the exception for bad input, and how the command line prints it."""

import sys

ERROR_PREFIX = "climax-hpc: error: "
"""Prefix of the line on standard error that says why a command failed."""
EXIT_BAD_INPUT = 2
"""Exit status of a command that refused its input; running it again does not help."""


class UserError(Exception):
    """Bad input. The message says what is wrong, where (file or config key), and the fix, in one line.

    The command line prints `climax-hpc: error: …` and exits with status 2; in Python it can be caught.
    """


def print_error(message: str) -> None:
    """Print why a command failed: one line in one write, so that the lines of several ranks do not mix."""
    sys.stderr.write(f"{ERROR_PREFIX}{' '.join(message.split())}\n")
    sys.stderr.flush()
