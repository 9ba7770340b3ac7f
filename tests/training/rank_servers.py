"""Starts light ranks (`light_ranks.py`) through two servers: one under strace, and one whose ranks nobody watches."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from .start_up_jobs import Job
from .system_calls import STRACE, TRACED


class RankServer:
    """A process that has done the imports and forks ranks on request."""

    def __init__(self, errors: Path, prefix: Sequence[str] = ()) -> None:
        """Args: `errors`: file for what it writes there; `prefix`: the command that starts it, such as strace."""
        self._errors = errors
        with errors.open("w") as file:
            self._process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "tests.training.light_ranks"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                start_new_session=True,  # the ranks can be killed with it
            )

    def __enter__(self) -> "RankServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()  # it ends where its input does

    @property
    def answers(self) -> IO[str]:
        """Where a line comes when a request is done."""
        assert self._process.stdout
        return self._process.stdout

    def ask(self, what: str, job: Job, **details: Any) -> None:
        """Send a request."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"what": what, "job": asdict(job), **details}) + "\n")
        self._process.stdin.flush()

    def take_answer(self) -> None:
        """Read the line that says that a request is done.

        Raises:
            RuntimeError: the server has failed.
        """
        if not self.answers.readline():
            raise RuntimeError(f"a server of light ranks has failed: {self._errors.read_text()[-1500:]}")


def run_jobs(jobs: Sequence[Job], folder: Path) -> Path:
    """Make the starts of these runs, one after the other.

    Returns:
        The folder with a file of strace for each thread of the ranks that are watched.

    Raises:
        RuntimeError: a rank has failed.
    """
    traces = folder / "traces"
    traces.mkdir()
    strace = [*STRACE, "-ff", "-ttt", "--seccomp-bpf", "-e", f"trace={','.join(TRACED)}", "-o", str(traces / "thread")]
    with ExitStack() as running:
        watched = running.enter_context(RankServer(folder / "watched.err", strace))
        servers = {watched: True}
        if any(each.unwatched for each in jobs):
            servers[running.enter_context(RankServer(folder / "unwatched.err"))] = False
        for job in jobs:
            _done(watched, "prepare", job)
            for start in job.starts:
                port = _free_port()
                asked = {server: job.watched if under else job.unwatched for server, under in servers.items()}
                asked = {server: ranks for server, ranks in asked.items() if ranks}
                for server, ranks in asked.items():
                    server.ask("start", job, start=start, port=port, ranks=ranks)
                _take_all(list(asked))
                if start == "first":
                    _done(watched, "write_checkpoint", job)
    return traces


def _done(server: RankServer, what: str, job: Job) -> None:
    server.ask(what, job)
    server.take_answer()


def _take_all(servers: Sequence[RankServer]) -> None:
    """Take an answer of each, in the order in which they come: one that fails leaves the other's ranks waiting."""
    missing: dict[Any, RankServer] = {each.answers: each for each in servers}
    while missing:
        for answers in wait(list(missing)):
            missing.pop(answers).take_answer()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
