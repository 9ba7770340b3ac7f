"""Errors of collectives about a lost rank: one line and the status that requeues; other errors pass."""

import pytest
import torch.distributed

from climax_hpc.distributed.launcher import World
from climax_hpc.distributed.lost_ranks import RankLost, lost_ranks_reported
from climax_hpc.distributed.signals import EXIT_RANK_LOST


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1"),
        torch.distributed.DistBackendError("NCCL communicator was aborted on rank 0"),
    ],
    ids=["gloo", "NCCL"],
)
def test_one_line_and_the_status(error: RuntimeError, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RankLost) as ended, lost_ranks_reported(World(rank=3, size=4), "start it again"):
        raise error
    assert ended.value.code == EXIT_RANK_LOST
    line = capsys.readouterr().err
    assert line.startswith("climax-hpc: error: rank 3 has lost contact with another rank (")
    assert line.endswith("or the scheduler's log; start it again\n")
    assert "pair.cc" not in line


@pytest.mark.parametrize("error", [RuntimeError("shape"), ValueError("gloo")])
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, lost_ranks_reported(World(), ""):
        raise error
    assert raised.value is error
