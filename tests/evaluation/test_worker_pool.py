"""The threads of an evaluation."""

import pytest
import torch

from climax_hpc.distributed import process_group
from climax_hpc.evaluation.worker_pool import worker_pool


def test_threads_take_the_device_of_the_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    device, chosen = torch.device("cuda", 3), list[torch.device]()
    monkeypatch.setattr(process_group, "device", lambda: device)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    with worker_pool(2) as pool:
        assert list(pool.map(abs, [-1, 1])) == [1, 1]
    assert set(chosen) == {device}
