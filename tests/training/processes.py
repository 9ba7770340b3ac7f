"""Trains in real processes for tests that send real signals: ranks by environment variables, without a launcher.

They are forked from a process that has imported torch and DeepSpeed, which takes longer than most of these trainings.
Tests under torchrun and mpiexec start theirs as users do.
"""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

_RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_IMPORTED = [
    "climax_hpc.training.train", "climax_hpc.tasks.forecast", "deepspeed", "torch.utils.tensorboard", "torch._dynamo",
    "torch._inductor.compile_fx", "torch.onnx", "functorch.compile", "pydantic.dataclasses", "distutils.ccompiler",
]  # fmt: skip
"""What a training imports at some time; more than half of its processor time here."""
_CODE = """
import atexit, gc, os, sys, threading
gc.freeze()  # what the imports made is never garbage
os.environ.clear()
os.environ.update({environment!r})
for number, path in enumerate({files!r}, start=1):
    os.dup2(os.open(path, os.O_WRONLY), number)
try:
    exec({code!r})
except Exception:  # printed before the exit functions run
    sys.excepthook(*sys.exc_info())
    sys.exit(1)
finally:  # as an interpreter ends, but not one that multiprocessing has started
    threading._shutdown()
    atexit._run_exitfuncs()
"""


@cache
def _starter() -> Any:
    """Starts processes as copies of one that has done the imports; anew where there is a GPU, which no copy can use."""
    if torch.cuda.is_available():
        return multiprocessing.get_context("spawn")
    starter = multiprocessing.get_context("forkserver")
    starter.set_forkserver_preload(_IMPORTED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_ACCELERATOR", "cpu")  # as `climax_hpc.training.deepspeed_engine` sets it
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()
    return starter


class Rank:
    """One process, with what tests need of `subprocess.Popen`; its output goes to files."""

    def __init__(self, code: str, environment: dict[str, str], folder: Path) -> None:
        """Run Python `code`; `folder`: for the files."""
        self._files = []
        for _ in range(2):
            handle, name = tempfile.mkstemp(dir=folder)
            os.close(handle)
            self._files.append(name)
        code = _CODE.format(environment=environment, files=self._files, code=code)
        self._process = _starter().Process(target=exec, args=(code, {"__name__": "__main__"}))
        self._process.start()
        assert self._process.pid
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; the exit status."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("rank", timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; what it wrote on standard output and standard error."""
        self.wait(timeout)
        output, errors = (Path(name).read_text() for name in self._files)
        return output, errors


class Ranks:
    """Ranks that train, one process each; killed when the block ends."""

    def __init__(self, *settings: dict[str, Any], ranks: int = 1, preamble: str = "", verb: str = "pretrain") -> None:
        """Args: several `settings` are trained one after the other; `preamble` is Python that injects a fault."""
        runs = [[verb, "--config", _write_config(each)] for each in settings]
        code = f"{preamble}\nfrom climax_hpc.cli import main\nfor words in {runs!r}:\n    main(words)"
        self.processes = start(code, ranks, Path(settings[0]["run_folder"]).parent)

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()

    def wait(self, timeout: float = 300) -> tuple[list[int], str, str]:
        """Exit statuses, standard outputs and standard errors of all ranks."""
        output, errors, end = "", "", time.monotonic() + timeout
        for process in self.processes:
            out, err = process.communicate(timeout=max(0.1, end - time.monotonic()))
            output, errors = output + out, errors + err
        return [process.wait() for process in self.processes], output, errors

    def wait_until(self, happened: Callable[[], bool], timeout: float = 300) -> None:
        """Wait until `happened` is true; fails if a rank ends first."""
        end = time.monotonic() + timeout
        while not happened():
            ended = [process for process in self.processes if process.returncode is not None]
            assert not ended, f"rank ended with {ended[0].returncode}: {ended[0].communicate()[1][-2000:]}"
            assert time.monotonic() < end, "timed out"
            time.sleep(0.002)


def start(code: str, ranks: int, folder: Path) -> list[Rank]:
    """Processes that run Python `code` as ranks of one job; their output goes to files in `folder`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    common = {k: v for k, v in os.environ.items() if k not in _RANK_VARIABLES} | {"OMP_NUM_THREADS": "1"}
    return [
        Rank(code, common | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)} | address, folder)
        for rank in range(ranks)
    ]


def finish(processes: list[Rank], timeout: float = 900) -> tuple[list[int], str, str]:
    """Wait for the ranks; their exit statuses, standard outputs and standard errors. None is left running."""
    try:
        ended = [process.communicate(timeout) for process in processes]
        return [process.wait() for process in processes], *("".join(texts) for texts in zip(*ended, strict=True))
    finally:
        for process in processes:
            process.kill()


def run_commands(*commands: list[str], ranks: int, folder: Path) -> tuple[list[int], str, str]:
    """Run commands of climax-hpc, one after the other in the same ranks; as `finish`."""
    code = f"from climax_hpc.cli import main\nfor words in {list(commands)!r}:\n    main(words)"
    return finish(start(code, ranks, folder))


def run_script(name: str, *arguments: str, ranks: int, folder: Path) -> Any:
    """Run a script as ranks that must succeed; the JSON of the line that the first one prints.

    Args:
        name: of a file beside this one, or a path.
    """
    path = str(Path(__file__).parent / name)
    return _run(f"runpy.run_path({path!r}, None, '__main__')", arguments, ranks, folder)


def run_module(name: str, *arguments: str, ranks: int, folder: Path) -> Any:
    """`python -m NAME` likewise."""
    return _run(f"runpy.run_module({name!r}, None, '__main__')", arguments, ranks, folder)


def _run(call: str, arguments: Sequence[str], ranks: int, folder: Path) -> Any:
    code = f"import runpy, sys\nsys.argv = {['rank', *arguments]!r}\n{call}"
    statuses, output, errors = finish(start(code, ranks, folder))
    assert statuses == [0] * ranks, errors[-2000:]
    return json.loads(next(line for line in output.splitlines() if line.startswith("{")))


def _write_config(settings: dict[str, Any]) -> str:
    path = Path(f"{settings['run_folder']}.yaml")
    path.write_text(yaml.safe_dump(settings))
    return str(path)


def logged_steps(run_folder: Path) -> int:
    """Lines of metrics.jsonl."""
    path = run_folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def state(run_folder: Path) -> dict[str, Any]:
    """state.json."""
    content = json.loads((run_folder / "state.json").read_text())
    assert isinstance(content, dict)
    return content
