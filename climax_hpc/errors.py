"""The exceptions for bad input and for too little memory, the exit statuses, and how the command line prints them."""

import errno
import sys
from contextlib import suppress

ERROR_PREFIX = "climax-hpc: error: "
"""Prefix of the line on standard error that says why a command failed."""
_LONGEST_LINE = 1500
EXIT_BAD_INPUT = 2
"""Exit status of a command that refused its input; running it again does not help."""

EXIT_FAILED = 1
"""Exit status after the operating system refused something; running it again may help."""
EXIT_INTERRUPTED = 130
"""Exit status after Ctrl-C."""
_NEEDS_ANOTHER_PATH = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY,
    errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip
"""Error numbers with which the operating system refuses the same path again: bad input."""


class UserError(Exception):
    """Bad input. The message says what is wrong, where (file or config key), and the fix, in one line.

    The command line prints `climax-hpc: error: …` and exits with status 2; in Python it can be caught.
    """


def require(condition: bool, message: str) -> None:
    """Raise UserError(message) unless the condition holds; messages name the key and the fix."""
    if not condition:
        raise UserError(message)


class Unreachable(UserError):
    """A store on the network could not be read to the end: it did not answer, refused, or gave damaged bytes.

    The command line prints it and exits with status 1: the input may be sound, and running it again resumes.
    """


class NotEnoughMemory(MemoryError):
    """Memory ran out, on the host or on a device. The message says where, how much was asked for, and what helps.

    The command line prints it and exits with status 1: another attempt may help, if something else held the memory.
    """


def exit_status(error: BaseException) -> int:
    """Status with which a process ends that this error ends."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    refused_again = isinstance(error, OSError) and error.errno in _NEEDS_ANOTHER_PATH
    refused_again = refused_again or (isinstance(error, UserError) and not isinstance(error, Unreachable))
    return EXIT_BAD_INPUT if refused_again else EXIT_FAILED


def print_error(message: str) -> None:
    """Print why a command failed: one line in one write, so that the lines of several ranks do not mix."""
    line = printable(" ".join(message.split()))
    if len(line) > _LONGEST_LINE:  # the beginning says what is wrong, the end how to fix it
        line = f"{line[: _LONGEST_LINE * 2 // 3]} … {line[-_LONGEST_LINE // 3 :]}"
    with suppress(OSError):  # nowhere to say it: the exit status does
        sys.stderr.write(f"{ERROR_PREFIX}{line}\n")
        sys.stderr.flush()


def printable(text: str, kept: str = "") -> str:
    """Text with ? for what does not print, except `kept`: names from files may hold commands to the terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c in kept else "?" for c in text)
