"""Runs steps with dependencies, a few at a time, each a command in its own process; finished steps are skipped.

FOLDER/steps/NAME.json   key, state (started, finished), command and seconds of a step; written around its run
FOLDER/logs/NAME.log     what it printed
FOLDER/lock              held by the runner and by every step, so that none runs twice, not even after a kill -9

The key of a step is the hash of its command and of the keys of its dependencies, so changed settings redo the step and
everything that depends on it. An interrupted step starts again, unless its command can resume.
"""

import fcntl
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from climax_hpc.distributed.signals import terminated_as_exit
from climax_hpc.errors import UserError
from climax_hpc.utils.files import make_folder, read_json, write_json

_NICE = 10  # other work on the machine goes first
_POLL_SECONDS = 0.2
_SECONDS_TO_STOP = 60.0  # a training run writes a checkpoint before it ends


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command, of the study or of another recipe."""

    name: str
    """Unique, such as `finetune/resnet-seed1`."""
    words: tuple[str, ...]
    """Arguments after `python -m`."""
    output: Path
    """File or folder that it writes; removed before the step is redone."""
    needs: tuple["Step", ...] = ()
    """Steps that must finish first."""
    expected_seconds: float = 1.0
    """On one idle core; only for the estimate of the time left."""
    resumable: bool = False
    """The command can resume from its own interrupted output."""
    launcher: tuple[str, ...] = ()
    """Words before `words` that change nothing about the output, such as torchrun's; not part of the key."""
    config: str = ""
    """Content of a config file that `words` name, if the key is to change with it."""

    @cached_property
    def key(self) -> str:
        """Hash of everything that determines the output."""
        digest = hashlib.sha256("\0".join((self.name, *self.words)).encode() + self.config.encode())
        for step in self.needs:
            digest.update(step.key.encode())
        return digest.hexdigest()

    @property
    def command(self) -> str:
        """The command as a user would type it."""
        line = shlex.join((*self.launcher, *self.words)).replace("torch.distributed.run", "torchrun")
        return line if self.launcher else line.replace("climax_hpc", "climax-hpc", 1)


def with_needs(steps: Sequence[Step]) -> list[Step]:
    """The steps and their dependencies, each once, dependencies first."""
    found: dict[str, Step] = {}

    def add(step: Step) -> None:
        if step.name in found:
            return
        for need in step.needs:
            add(need)
        found[step.name] = step

    for step in steps:
        add(step)
    return list(found.values())


class StepRecords:
    """Records of earlier runs in the folder of a study."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def is_finished(self, step: Step) -> bool:
        """True if the step finished with these settings and its output exists."""
        record = self._read(step)
        return record.get("state") == "finished" and record["key"] == step.key and step.output.exists()

    def seconds(self, step: Step) -> float:
        """Wall time of a finished step [s], including all attempts."""
        return float(self._read(step)["seconds"])

    def begin(self, step: Step) -> None:
        """Remove an outdated output, and record that the step has started."""
        record = self._read(step)
        same = record.get("key") == step.key
        if not (same and record["state"] == "started" and step.resumable):
            remove(step.output)
            record = {}
        self._write(step, "started", seconds=record.get("seconds", 0.0))

    def end(self, step: Step, *, finished: bool, seconds: float) -> None:
        """Record the time of an attempt, and whether the step finished."""
        self._write(step, "finished" if finished else "started", seconds=self._read(step)["seconds"] + seconds)

    def log(self, step: Step) -> Path:
        """Log file of the step."""
        return self.folder / "logs" / f"{step.name}.log"

    def _path(self, step: Step) -> Path:
        return self.folder / "steps" / f"{step.name}.json"

    def _read(self, step: Step) -> dict[str, Any]:
        path = self._path(step)
        return dict(read_json(path, "the record of a step of the study; delete it")) if path.exists() else {}

    def _write(self, step: Step, state: str, *, seconds: float) -> None:
        path = self._path(step)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"key": step.key, "state": state, "seconds": seconds, "command": step.command})


def remove(path: Path) -> None:
    """Remove a file or a folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def run_steps(steps: Sequence[Step], folder: Path, *, jobs: int) -> None:
    """Run the steps and what they need, `jobs` at a time; returns when all have finished.

    Raises:
        UserError: a step failed (the message names its log; the other steps are stopped and resume in the next call),
            or steps are already running in this folder.
    """
    with _locked(folder) as lock:
        _run(with_needs(steps), StepRecords(folder), jobs=jobs, lock=lock)


def _run(every: Sequence[Step], records: StepRecords, *, jobs: int, lock: int) -> None:
    waiting = [step for step in every if not records.is_finished(step)]
    print(f"{len(every) - len(waiting)} of {len(every)} steps are already done", flush=True)
    progress = _Progress(waiting, total=len(every))
    running: dict[str, _Running] = {}
    with terminated_as_exit():
        try:
            while waiting or running:
                while len(running) < jobs and (ready := _first_ready(waiting, running)):
                    waiting.remove(ready)
                    running[ready.name] = _Running(ready, records, lock)
                time.sleep(_POLL_SECONDS)
                for name in [name for name, one in running.items() if one.has_ended()]:
                    one = running.pop(name)
                    one.close()
                    progress.finished(one.step, records.seconds(one.step))
        finally:
            for one in running.values():
                one.stop()


def _first_ready(waiting: Sequence[Step], running: Mapping[str, "_Running"]) -> Step | None:
    busy = {step.name for step in waiting} | set(running)
    return next((step for step in waiting if not any(need.name in busy for need in step.needs)), None)


class _Running:
    """The process of a step."""

    def __init__(self, step: Step, records: StepRecords, lock: int) -> None:
        self.step, self._records = step, records
        log = records.log(step)
        log.parent.mkdir(parents=True, exist_ok=True)
        records.begin(step)
        self._begun = time.perf_counter()
        # One thread each: on a busy machine, synchronising threads cost much more.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        with log.open("w") as file:
            self._process = subprocess.Popen(
                ["nice", "-n", str(_NICE), sys.executable, "-m", *step.launcher, *step.words],
                env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                pass_fds=(lock,),
                start_new_session=True,  # Ctrl-C goes to the runner, which then stops its steps
            )  # fmt: skip

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def close(self) -> None:
        """Record the end.

        Raises:
            UserError: the step failed.
        """
        status = self._process.returncode
        self._records.end(self.step, finished=status == 0, seconds=time.perf_counter() - self._begun)
        if status:
            log = self._records.log(self.step)
            lines = log.read_text(errors="replace").strip().splitlines()
            raise UserError(
                f"step {self.step.name} failed (exit status {status}): {lines[-1] if lines else 'no output'}; "
                f"see {log}, fix the cause and start the same command again; finished steps are kept"
            )

    def stop(self) -> None:
        """End the process and its children, first by SIGTERM."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(_SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._records.end(self.step, finished=False, seconds=time.perf_counter() - self._begun)


class _Progress:
    """A line per finished step, with an estimate of the time left."""

    def __init__(self, waiting: Sequence[Step], *, total: int) -> None:
        self._begun, self._total, self._left = time.perf_counter(), total, len(waiting)
        self._expected = sum(step.expected_seconds for step in waiting)
        self._done = 0.0

    def finished(self, step: Step, seconds: float) -> None:
        self._left -= 1
        self._done += step.expected_seconds
        elapsed = time.perf_counter() - self._begun
        left = elapsed / self._done * (self._expected - self._done)
        print(
            f"[{self._total - self._left}/{self._total}] {step.name} in {seconds:.0f} s; "
            f"{elapsed / 60:.0f} min elapsed, about {left / 60:.0f} min left",
            flush=True,
        )


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Hold the lock of the folder; its descriptor is passed to every step.

    Raises:
        UserError: the lock is taken, or the folder cannot be created or written.
    """
    make_folder(folder, "--folder")
    try:
        file = (folder / "lock").open("w")
    except OSError as error:
        raise UserError(
            f"--folder: cannot write {folder / 'lock'} ({error.strerror}); choose a writable folder"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"--folder: steps of another or a killed run are still running in {folder}; wait for them, or end "
                f"them (`fuser {folder / 'lock'}` lists them)"
            ) from None
        yield file.fileno()
