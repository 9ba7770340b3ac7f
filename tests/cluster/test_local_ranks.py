"""The same without Slurm: two ranks on this machine stop on a signal and resume (slow, hence in this folder)."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from climax_hpc.distributed.signals import EXIT_REQUEUE, WARNING_SIGNAL
from climax_hpc.launch import Resources, pretrain, read_status
from climax_hpc.launch.requeue import read_chain

from ..launch.small import forget_launcher, write_settings
from .conftest import losses, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def dataset(make_dataset: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small data set, in an environment without a launcher."""
    forget_launcher(monkeypatch)
    return make_dataset()


def training_process(run: Path) -> int | None:
    """Id of the process that trains into a run folder."""
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"pretrain" in words and f"--run_folder={run}".encode() in words:
            return int(entry)
    return None


def test_two_ranks_stop_on_a_signal_and_resume(dataset: Path, tmp_path: Path) -> None:
    config = write_settings(tmp_path / "c.yaml", dataset, tmp_path / "unused", steps=150)
    where = Resources(executor="local", tasks_per_node=2)
    sent = pretrain(config, {"run_folder": tmp_path / "a run"}, folder=tmp_path / "jobs", where=where)
    wait_for(lambda: len(losses(sent.folder)) >= 10, "ten steps")
    process = training_process(sent.folder)
    assert process
    os.kill(process, WARNING_SIGNAL)
    outcome = sent.wait()
    assert outcome.ok, outcome.message
    chain = read_chain(sent.folder)
    assert chain
    assert [attempt.status for attempt in chain.attempts] == [EXIT_REQUEUE, 0]
    status = read_status(sent.folder)
    assert (status.state, status.step, status.restarts) == ("finished", 150, 1)
