"""Downloads many files in threads: nodes in turn, retries with growing waits, progress, one line about what failed."""

import queue
import random
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import requests
from tqdm import tqdm

from climax_hpc.data_prep.fetching.config import FetchConfig
from climax_hpc.data_prep.fetching.download import (
    FetchStopped,
    HashedPart,
    Interrupted,
    Rejected,
    Transfer,
    attempt,
    order_of,
    put_in_place,
)
from climax_hpc.data_prep.fetching.listing import FetchFolder
from climax_hpc.data_prep.fetching.records import RemoteFile, host_of
from climax_hpc.errors import UserError
from climax_hpc.utils.formatting import readable_size
from climax_hpc.utils.provenance import package_version
from climax_hpc.utils.system_errors import NO_ROOM, reason_of

_LONGEST_WAIT = 60.0
_REAL_PROGRESS = 8 << 20
"""Bytes that make a failed attempt worth as much as none."""
_MOST_NAMED = 3
_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True, kw_only=True)
class FailedFile:
    """A file that could not be had."""

    file: RemoteFile
    reason: str
    temporary: bool
    """True if another run may get it."""


class TransferProgress:
    """Bytes and files that have arrived: a bar on a terminal, else a line every ten seconds."""

    def __init__(self, files: int, size: int) -> None:
        self._files, self._size, self._lock = files, size, threading.Lock()
        self.done, self.bytes, self._start = 0, 0, time.monotonic()
        self._last = self._start
        terminal = sys.stderr.isatty()
        self._bar = tqdm(total=size or None, desc="fetch", unit="B", unit_scale=True) if terminal else None

    def received(self, count: int) -> None:
        """Count bytes; a negative number takes some back."""
        with self._lock:
            self.bytes += count
            if self._bar is not None:
                self._bar.update(count)
            elif time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
                self._print()

    def finished(self) -> None:
        """Count a file."""
        with self._lock:
            self.done += 1

    def note(self, text: str) -> None:
        """Print a line beside the bar."""
        with self._lock:
            tqdm.write(f"fetch: {text}", file=sys.stdout)
            sys.stdout.flush()

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def _print(self) -> None:
        self._last, elapsed = time.monotonic(), time.monotonic() - self._start
        rate = self.bytes / max(elapsed, 1e-9)
        print(
            f"fetch: {self.done} of {self._files} files, {readable_size(self.bytes)} of {readable_size(self._size)}, "
            f"{elapsed:.0f} s, {readable_size(rate)}/s",
            flush=True,
        )


@dataclass(kw_only=True)
class Downloads:
    """The files that are to be downloaded, and the threads that do it."""

    config: FetchConfig
    folder: FetchFolder
    progress: TransferProgress
    stop: threading.Event = field(default_factory=threading.Event)
    _failures: Counter[str] = field(default_factory=Counter)
    """Host -> failed attempts since its last success."""
    _local: threading.local = field(default_factory=threading.local)

    def run(self, files: Sequence[RemoteFile]) -> list[FailedFile]:
        """Download the files, the largest first; what could not be had, after all others have been tried.

        Raises:
            UserError: the disk is full.
            OSError: the system refused something else.
        """
        waiting = deque(sorted(files, key=lambda file: -(file.size or 0)))
        results: queue.SimpleQueue[FailedFile | BaseException | None] = queue.SimpleQueue()
        for _ in range(min(self.config.parallel, len(waiting))):
            threading.Thread(target=self._work, args=(waiting, results), daemon=True).start()
        failures = []
        try:
            for _ in files:
                result = results.get()
                if isinstance(result, BaseException):
                    raise result
                if result is not None:
                    failures.append(result)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise UserError(
                    f"output: no space is left for {self.config.output} ({reason_of(error)}); free some space, or "
                    "raise the quota, and run the same command again: it resumes"
                ) from None
            raise
        finally:
            self.stop.set()
            self.progress.close()
        return sorted(failures, key=lambda failure: failure.file.path)

    def _work(
        self, waiting: "deque[RemoteFile]", results: "queue.SimpleQueue[FailedFile | BaseException | None]"
    ) -> None:
        """The loop of a thread: every file gives one result."""
        while not self.stop.is_set():
            try:
                file = waiting.popleft()
            except IndexError:
                return
            try:
                results.put(self._download(file))
            except FetchStopped:
                return
            except BaseException as error:  # raised again by the main thread
                results.put(error)
                return

    def _download(self, file: RemoteFile) -> FailedFile | None:
        """One file from the first node that delivers it."""
        urls, problems, tries, hashed = list(file.urls), {}, 0, HashedPart()
        while True:
            before, asked = self._part_size(file), 0.0
            for url in order_of(urls, self._preference, lambda host: self._failures[host]):
                try:
                    self._attempt(file, url, hashed)
                    return None
                except Rejected as error:
                    problems[url] = str(error)
                    urls.remove(url)
                except Interrupted as error:
                    problems[url], asked = str(error), max(asked, error.wait)
                self._failures[host_of(url)] += 1
            if not urls or tries >= self.config.retries:
                return FailedFile(file=file, reason="; ".join(problems.values()), temporary=bool(urls))
            tries = 0 if self._part_size(file) - before >= _REAL_PROGRESS else tries + 1
            self._wait(tries, asked)

    def _attempt(self, file: RemoteFile, url: str, hashed: HashedPart) -> None:
        """Download a file from one URL, and put it in its place; a failed attempt does not count in the progress."""
        part, arrived = self.folder.part(file.path), [0]

        def received(count: int) -> None:
            arrived[0] += count
            self.progress.received(count)

        transfer = Transfer(
            part=part,
            session=self._session(),
            stall_seconds=self.config.stall_seconds,
            stop=self.stop,
            received=received,
            note=self.progress.note,
            hashed=hashed,
        )
        try:
            attempt(file, url, transfer)
        except Exception:
            self.progress.received(-arrived[0])
            raise
        put_in_place(part, Path(self.config.output) / file.path)
        self.folder.record(file.path, file.checksum)
        self._failures.pop(host_of(url), None)
        self.progress.finished()

    def _session(self) -> requests.Session:
        """The session of this thread: sessions are not made for several."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.headers["User-Agent"] = f"climax_hpc/{package_version()}"
        session: requests.Session = self._local.session
        return session

    def _preference(self, host: str) -> int:
        patterns = self.config.nodes or []
        return next((i for i, pattern in enumerate(patterns) if fnmatchcase(host, pattern)), len(patterns))

    def _part_size(self, file: RemoteFile) -> int:
        part = self.folder.part(file.path)
        return part.stat().st_size if part.exists() else 0

    def _wait(self, tries: int, asked: float) -> None:
        """Wait before the next round: twice as long each time, with chance, so that not all threads come at once."""
        seconds = self.config.retry_seconds * 2 ** max(tries - 1, 0) * random.uniform(0.75, 1.25)
        if self.stop.wait(min(max(seconds, asked), _LONGEST_WAIT)):
            raise FetchStopped


def refuse_failures(failures: Sequence[FailedFile], total: int) -> None:
    """End a fetch whose files are not all there.

    Raises:
        ConnectionError: another run may get the rest.
        UserError: no node has what the index lists.
    """
    if not failures:
        return
    named = "; ".join(f"{failure.file.name}: {failure.reason}" for failure in failures[:_MOST_NAMED])
    more = f"; and {len(failures) - _MOST_NAMED} more" if len(failures) > _MOST_NAMED else ""
    line = f"{len(failures)} of {total} files could not be downloaded ({named}{more})"
    if any(failure.temporary for failure in failures):
        raise ConnectionError(f"{line}; run the same command again: it resumes")
    raise UserError(f"{line}; no node has them as the index lists them: try another --index, or leave them out")
