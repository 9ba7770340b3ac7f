"""Errors of collectives about a lost rank: one line and the status that requeues; other errors pass."""

from pathlib import Path

import pytest
import torch.distributed

from climax_hpc.config.inference import EvaluateConfig, PredictConfig
from climax_hpc.distributed.launcher import World
from climax_hpc.distributed.lost_ranks import RankLost, lost_ranks_reported
from climax_hpc.distributed.signals import EXIT_RANK_LOST
from climax_hpc.evaluation.task_evaluation import run_evaluation
from climax_hpc.inference.predict import predict


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


def lose(*_: object, **__: object) -> None:
    raise torch.distributed.DistBackendError("NCCL communicator was aborted on rank 0")


def test_preparing_an_evaluation_and_a_prediction_is_reported_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = EvaluateConfig(
        dataset="",
        source="",
        models={"a": ""},
        period=("2001", "2001"),
        train_period=("2000", "2000"),
        run_folder=str(tmp_path / "run"),
    )
    for module in ("evaluation.task_evaluation", "inference.predict"):
        monkeypatch.setattr(f"climax_hpc.{module}.load_checkpoint", lambda path: None)
    with pytest.raises(RankLost):
        run_evaluation(config, lose)  # type: ignore[arg-type]
    monkeypatch.setattr("climax_hpc.inference.predict.shared_band", lose)
    with pytest.raises(RankLost):
        predict(PredictConfig(models={"a": ""}, input="x", output=str(tmp_path / "out.nc")))
    assert capsys.readouterr().err.count("start the same command again") == 2
