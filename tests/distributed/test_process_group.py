"""Joining the process group: which device a rank takes, and what it says while other ranks are missing."""

import os
import subprocess
import sys
from datetime import timedelta

import pytest
import torch

from climax_hpc.distributed.hang_detection import longest_wait
from climax_hpc.distributed.process_group import connect, device_number

_ALONE = """
from climax_hpc.distributed import process_group
process_group._PATIENCE = 0.5
process_group.connect()
"""


@pytest.mark.parametrize(("devices", "expected"), [(4, [0, 1, 2, 3]), (1, [0, 0, 0, 0])])
def test_a_rank_that_sees_one_device_takes_it(
    monkeypatch: pytest.MonkeyPatch, devices: int, expected: list[int]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    assert [device_number(rank) for rank in range(4)] == expected


@pytest.mark.parametrize(("hang_timeout", "expected"), [(0, 1800), (900, 7200)])
def test_collectives_wait_longer_than_the_heartbeat(
    monkeypatch: pytest.MonkeyPatch, hang_timeout: float, expected: float
) -> None:
    joined: list[timedelta] = []
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, {"RANK": "0", "WORLD_SIZE": "1"}.get(name, "0"))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, timeout, **__: joined.append(timeout))
    connect(longest_wait=longest_wait(hang_timeout))
    assert joined == [timedelta(seconds=expected)]


def test_without_a_device_the_local_rank_is_kept() -> None:
    if not torch.cuda.is_available():
        assert device_number(3) == 3


def test_a_rank_says_that_it_waits_for_others() -> None:
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29533"}
    command = [sys.executable, "-c", _ALONE]
    with subprocess.Popen(command, env=os.environ | ranks, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        line = next(text for text in waiting.stderr if "waits for the other ranks" in text)
        waiting.kill()
    assert "rank 0 waits for the other ranks of 2" in line
    assert "127.0.0.1:29533" in line
    assert "start with srun, torchrun or mpiexec" in line
