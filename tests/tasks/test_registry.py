"""The table of tasks: one more entry is one more task of every verb; settings of other tasks are refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from climax_hpc.cli import run
from climax_hpc.config.inference import EvaluateConfig, PredictConfig
from climax_hpc.config.training import DataConfig, FinetuneConfig
from climax_hpc.errors import NotEnoughMemory, UserError
from climax_hpc.evaluation.output import task_of_evaluation
from climax_hpc.launch.members import Member
from climax_hpc.model.config import ModelConfig
from climax_hpc.tasks.registry import TASKS, Task, evaluate, finetune, predict

PROJECTION = ModelConfig(years=3, variables=("orography",), projected=("2m_temperature",))
MODULE = '''
"""A task outside the package: a persistence nowcast, which leaves a note of every verb."""
from pathlib import Path
from climax_hpc.utils.files import write_json

def finetune(config):
    Path(config.run_folder).mkdir()
    write_json(Path(config.run_folder) / "trained.json", {"dataset": config.data.dataset})

def evaluate(config):
    folder = Path(config.run_folder)
    folder.mkdir()
    content = {"schema": "climax_hpc/evaluation", "schema_version": 1, "task": config.task, "models": config.models}
    write_json(folder / "evaluation.json", content)
    return folder / "evaluation.json"

def predict(config):
    Path(config.output).write_text("sunny")
    return Path(config.output)

def report(config):
    return f"<html>{config.evaluation}</html>", lambda: None
'''


def test_an_added_task_serves_every_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "nowcasting_task.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    verbs = ("finetune", "evaluate", "predict", "report")
    entry = Task(
        summary="the next hour",
        finetune_keys=("transfer",),
        **{verb: f"nowcasting_task:{verb}" for verb in verbs},
    )
    monkeypatch.setitem(TASKS, "nowcast", entry)
    common = ["--models", '{"a": "checkpoint"}', "--task", "nowcast"]
    dated = ["--period", '["2000", "2001"]', "--train_period", '["1990", "1999"]']
    run(["finetune", "--task", "nowcast", "--run_folder", str(tmp_path / "run"), "--data.dataset", "packed"])
    run(["evaluate", *common, "--dataset", "d", "--source", "s", "--run_folder", str(tmp_path / "e"), *dated])
    run(["predict", *common, "--input", "d", "--output", str(tmp_path / "forecast.txt")])
    run(["report", "--evaluation", str(tmp_path / "e"), "--output", str(tmp_path / "page.html")])
    assert (tmp_path / "run" / "trained.json").is_file()
    assert (tmp_path / "forecast.txt").read_text() == "sunny"
    assert (tmp_path / "page.html").read_text() == f"<html>{tmp_path / 'e'}</html>"
    run(["tasks"])
    assert "nowcast       the next hour\n              only here: finetune transfer\n" in capsys.readouterr().out
    assert Member(index=0, task="nowcast", run_folder="r").arguments() == ["--run_folder=r", "--task=nowcast"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "forcast"}, "task: unknown task 'forcast'; did you mean forecast"),
        ({"frozen": True}, "frozen belongs to task projection: leave it out"),
        (
            {"model": ModelConfig(years=3, variables=("orography",), projected=("2m_temperature",))},
            "model.years belongs to task projection",
        ),
        ({"task": "projection", "data": DataConfig(dataset="d", window_hours=48)}, "data.window_hours belongs to"),
    ],
)
def test_settings_of_another_task_are_refused(changes: dict[str, Any], message: str) -> None:
    values = {"run_folder": "r", "data": DataConfig(dataset="d")} | changes
    with pytest.raises(UserError, match=message):
        finetune(FinetuneConfig(**values))


def test_every_function_of_every_task_exists() -> None:
    from importlib import import_module

    for task in TASKS.values():
        for verb in ("finetune", "evaluate", "predict", "report"):
            module, name = getattr(task, verb).split(":")
            function: Callable[..., Any] = getattr(import_module(module), name)
            assert function.__doc__


def test_evaluations_without_a_task_are_known_by_their_schema() -> None:
    assert task_of_evaluation({"schema": "climax_hpc/evaluation"}) == "forecast"
    assert task_of_evaluation({"schema": "climax_hpc/projection"}) == "projection"
    assert task_of_evaluation({"schema": "climax_hpc/evaluation", "task": "downscaling"}) == "downscaling"


@pytest.mark.parametrize(
    ("verb", "config", "advice"),
    [
        (
            evaluate,
            EvaluateConfig(
                run_folder="a", models={"b": "c"}, dataset="d", source="e", period=("1", "2"), train_period=("1", "2")
            ),
            "lower batch_size (now 16) or threads (now 2)",
        ),
        (predict, PredictConfig(models={"a": "b"}, input="c", output="d.nc"), "lower batch_size (now 8)"),
    ],
    ids=["evaluate", "predict"],
)
def test_out_of_memory_names_what_helps(
    monkeypatch: pytest.MonkeyPatch, verb: Callable[[Any], Path], config: Any, advice: str
) -> None:
    def run_out(config: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")

    monkeypatch.setattr("climax_hpc.tasks.registry.load", lambda _: run_out)
    line = f"not enough memory on the GPU (1.00 GiB more were asked for): {advice}"
    with pytest.raises(NotEnoughMemory, match=re.escape(line)):
        verb(config)
