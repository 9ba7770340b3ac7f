"""How a command ends: every foreseeable error is one line on standard error, and standard output may go away."""

import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from climax_hpc.errors import EXIT_FAILED, NotEnoughMemory, UserError, exit_status, print_error, printable
from climax_hpc.utils.memory_errors import memory_errors_explained
from climax_hpc.utils.system_errors import check_open_files, explain, number_of

_LAST_STANDARD_STREAM = 2


@contextmanager
def command_guard() -> Iterator[None]:
    """Turn bad input, and what the system refused, into one line and an exit status; other errors are bugs and pass.

    Raises:
        SystemExit: after the line.
    """
    try:
        with _standard_streams(), _quiet_threads(), memory_errors_explained():
            check_open_files()
            yield
    except (UserError, NotEnoughMemory) as error:
        _fail(str(error), error)
    except OSError as error:
        _fail(explain(error), error)
    except UnicodeError as error:
        _fail(f"a name or text is not UTF-8: {_excerpt(error)}; rename it", error)
    except KeyboardInterrupt as error:
        _fail("interrupted", error)
    except (RuntimeError, ImportError) as error:
        number = number_of(error)
        if number is None:
            raise
        refused = OSError(number, "")
        _fail(explain(refused, str(error)[:200]), refused)


@contextmanager
def _quiet_threads() -> Iterator[None]:
    """What the system refuses to a thread of a library, such as TensorBoard's writer, is raised again by its next call.

    The traceback that the thread would print before says nothing more.
    """
    before = threading.excepthook
    threading.excepthook = lambda ended: None if isinstance(ended.exc_value, OSError) else before(ended)
    try:
        yield
    finally:
        threading.excepthook = before


def _fail(message: str, error: BaseException) -> None:
    print_error(message)
    sys.exit(exit_status(error))


def _excerpt(error: UnicodeError) -> str:
    if isinstance(error, UnicodeEncodeError | UnicodeDecodeError):
        return repr(error.object[max(0, error.start - 40) : error.end + 20])
    return str(error)


class _Stream(io.FileIO):
    """A standard stream that never stops the work: after a full disk or a closed pipe, text goes nowhere."""

    lost: OSError | None = None

    def write(self, data: bytes) -> int | None:  # type: ignore[override]
        """Write, or pretend to after the first error."""
        if self.lost is None:
            try:
                return super().write(data)
            except OSError as error:
                self.lost = error
        return len(data)


class _Text(io.TextIOWrapper):
    """Text of a standard stream; names from files cannot send commands to the terminal."""

    def write(self, text: str) -> int:
        """Write what prints, ends lines, or redraws a progress bar; ? for the rest."""
        return super().write(printable(text, kept="\n\r\t"))


@contextmanager
def _standard_streams() -> Iterator[None]:
    """Replace the process's own standard streams by ones that show ? for what they cannot encode, and do not raise.

    Raises:
        SystemExit: text on standard output was lost, and the command did not fail otherwise.
    """
    _occupy_standard_descriptors()
    before = sys.stdout, sys.stderr
    sys.stdout, output = _tolerant(sys.stdout)
    sys.stderr, _ = _tolerant(sys.stderr)
    try:
        yield
        sys.stdout.flush()
        if output and output.lost:
            print_error(f"standard output: {output.lost.strerror}; the work itself was done, only its text is lost")
            sys.exit(EXIT_FAILED)
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def _tolerant(stream: TextIO) -> tuple[TextIO, _Stream | None]:
    """The stream to use instead; streams that a test or a notebook put there stay."""
    if stream not in (sys.__stdout__, sys.__stderr__) or not isinstance(stream, io.TextIOWrapper):
        return stream, None
    stream.flush()
    raw = _Stream(stream.fileno(), "w", closefd=False)
    buffer = io.BufferedWriter(raw)  # type: ignore[type-var]
    # A terminal that is not UTF-8 shows ? instead of ending the command.
    text = _Text(
        buffer, stream.encoding, "replace", line_buffering=stream.line_buffering, write_through=stream.write_through
    )
    return text, raw


def _occupy_standard_descriptors() -> None:
    """Open the null device for standard streams that are closed, so that no output file gets their number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _LAST_STANDARD_STREAM:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - to the end of the process
