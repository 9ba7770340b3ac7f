"""Runs commands side by side, a few at a time, and passes on their lines of output; none outlives the caller."""

import os
import selectors
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence

_READ_BYTES = 1 << 16
_SECONDS_TO_STOP = 10.0


def run_side_by_side(
    commands: Mapping[str, Sequence[str]],
    *,
    jobs: int,
    report: Callable[[str, str], None],
    ended: Callable[[str, str | None], None],
) -> None:
    """Run every command, `jobs` at a time; they are ended if this function is left by an exception.

    Args:
        commands: name -> arguments. The standard input of each ends when this process ends, in whatever way.
        jobs: commands at the same time.
        report: called with the name and each line of output.
        ended: called with the name when a command has ended, and why it failed, in words (None: it did not).
    """
    waiting, running = dict(commands), dict[str, _Child]()
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    name = next(iter(waiting))
                    running[name] = _Child(waiting.pop(name))
                    selector.register(running[name].output, selectors.EVENT_READ, name)
                for key, _ in selector.select():
                    name = key.data
                    for line in running[name].read_lines():
                        report(name, line)
                    if running[name].closed:
                        selector.unregister(key.fileobj)
                        ended(name, running.pop(name).wait())
        finally:
            for one in running.values():
                one.stop()


class _Child:
    """A command that runs."""

    def __init__(self, arguments: Sequence[str]) -> None:
        # The driver imports the files beside it, which Python's safe path leaves out.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
        # A session of its own: Ctrl-C reaches the caller alone, which then ends its commands.
        self._process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
        assert self._process.stdout is not None
        self.output = self._process.stdout.fileno()
        self.closed = False
        self._rest = b""
        self._last = "no output"

    def read_lines(self) -> list[str]:
        """The lines that are there; waits until something is."""
        found = os.read(self.output, _READ_BYTES)
        self.closed = not found
        *whole, self._rest = (self._rest + (found or b"\n")).split(b"\n")
        lines = [line.decode(errors="replace").rstrip() for line in whole if found or line]
        self._last = next((line for line in reversed(lines) if line), self._last)
        return lines

    def wait(self) -> str | None:
        """Why the command failed; None if it did not."""
        status = self._process.wait()
        self._close()
        if status < 0:
            hint = ", often for lack of memory: use fewer jobs" if -status == signal.SIGKILL else ""
            return f"ended by {signal.Signals(-status).name}{hint}"
        return f"exit status {status}: {self._last.removeprefix('error: ')}" if status else None

    def stop(self) -> None:
        """End the command, by SIGTERM, and by SIGKILL if it does not go."""
        self._process.terminate()
        try:
            self._process.wait(_SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._close()

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
