"""The downstream tasks: one entry each names what trains, scores, predicts and reports it, and its own settings.

A new task is one more entry here; its code may live in any module, which is imported when the task is used.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from climax_hpc.config.inference import EvaluateConfig, PredictConfig, ReportConfig
from climax_hpc.config.parser import nearest
from climax_hpc.config.training import FinetuneConfig, NoConfig
from climax_hpc.errors import UserError
from climax_hpc.evaluation.output import read_evaluation, task_of_evaluation
from climax_hpc.utils.memory_errors import memory_errors_explained
from climax_hpc.utils.references import load


@dataclass(frozen=True, kw_only=True)
class Task:
    """A downstream task; functions are named "module:function" and imported when they are called."""

    summary: str
    """What the task does, in one line."""
    finetune: str
    """Takes a FinetuneConfig: trains from a checkpoint or from random weights."""
    evaluate: str
    """Takes an EvaluateConfig: writes evaluation.json and returns its path."""
    predict: str
    """Takes a PredictConfig: writes predictions and returns the path written."""
    report: str
    """Takes a ReportConfig: returns the HTML page and a function that draws its summary figure."""
    finetune_keys: tuple[str, ...] = ()
    """Keys of `finetune` that only the tasks which list them accept; others must leave them at their defaults."""
    evaluate_keys: tuple[str, ...] = ()
    """Likewise, of `evaluate`."""
    predict_keys: tuple[str, ...] = ()
    """Likewise, of `predict`."""


TASKS: dict[str, Task] = {
    "forecast": Task(
        summary="forecasts of states or window means, global or regional, in one pass or rolled out",
        finetune="climax_hpc.tasks.forecast:finetune",
        evaluate="climax_hpc.evaluation.evaluate:evaluate",
        predict="climax_hpc.inference.predict:predict",
        report="climax_hpc.report.forecast_page:forecast_report",
        finetune_keys=(
            "data.region",
            "data.window_hours",
            "data.rollout_steps",
            "data.min_rollout_steps",
            "data.variable_weights",
            "train.sequence_parallel",
            "model.noise_dim",
            "train.members",
        ),
        evaluate_keys=(
            "rollout_hours",
            "regions",
            "start_every_hours",
            "sequence_parallel",
            "members",
            "ensembles",
            "truth_members",
            "truth_dataset",
        ),
        predict_keys=(
            "layout",
            "sequence_parallel",
            "members",
            "noise_seed",
            "calibration",
            "statistics",
            "quantiles",
            "exceedance",
            "keep_members",
        ),
    ),
    "downscaling": Task(
        summary="fine fields from coarse ones of the same time",
        finetune="climax_hpc.tasks.downscaling.training:finetune",
        evaluate="climax_hpc.tasks.downscaling.evaluation:evaluate",
        predict="climax_hpc.tasks.downscaling.prediction:predict",
        report="climax_hpc.report.downscaling_page:downscaling_report",
        finetune_keys=("data.variable_weights",),
        evaluate_keys=("unpaired",),
    ),
    "projection": Task(
        summary="yearly climate from the emissions of some years, as ClimateBench",
        finetune="climax_hpc.tasks.climate_projection.training:finetune",
        evaluate="climax_hpc.tasks.climate_projection.evaluation:evaluate",
        predict="climax_hpc.tasks.climate_projection.prediction:predict",
        report="climax_hpc.report.projection_page:projection_report",
        finetune_keys=("model.years", "frozen"),
        evaluate_keys=("train_sources",),
    ),
}


def find_task(name: str) -> Task:
    """The task of this name.

    Raises:
        UserError: there is none; names the nearest one.
    """
    if name not in TASKS:
        raise UserError(f"task: unknown task {name!r}{nearest(name, TASKS)}; known: {', '.join(TASKS)}")
    return TASKS[name]


def finetune(config: FinetuneConfig) -> None:
    """Fine-tune for the task of the config; see its function for what is raised."""
    task = find_task(config.task)
    _check_keys(config, {name: other.finetune_keys for name, other in TASKS.items()})
    load(task.finetune)(config)


def evaluate(config: EvaluateConfig) -> Path:
    """Score the models of the config at its task; the path of evaluation.json."""
    task = find_task(config.task)
    _check_keys(config, {name: other.evaluate_keys for name, other in TASKS.items()})
    with _computing(config, f"lower batch_size (now {config.batch_size}) or threads (now {config.threads})"):
        return Path(load(task.evaluate)(config))


def predict(config: PredictConfig) -> Path:
    """Write what the models of the config predict at its task; the path written."""
    task = find_task(config.task)
    _check_keys(config, {name: other.predict_keys for name, other in TASKS.items()})
    with _computing(config, f"lower batch_size (now {config.batch_size})"):
        return Path(load(task.predict)(config))


@contextmanager
def _computing(config: EvaluateConfig | PredictConfig, memory_advice: str) -> Iterator[None]:
    """Compute with the config's precision; running out of memory is one line that ends with the advice."""
    from climax_hpc.inference.precision import tf32  # imports torch, which `submit` does not need

    with memory_errors_explained(memory_advice), tf32(allowed=config.precision == "tf32"):
        yield


def report(config: ReportConfig) -> Path:
    """Write the page of an evaluation of any task, or of a whole sweep; the path of the page.

    Raises:
        UserError: no evaluation, a run without metrics, an unknown headline variable, or an unusable output path.
    """
    from climax_hpc.report.report import write_report  # matplotlib takes a second to import
    from climax_hpc.report.sweep_page import sweep_report
    from climax_hpc.report.sweep_results import SweepResults

    if SweepResults.is_one(config.evaluation):
        return write_report(config, sweep_report)
    task = task_of_evaluation(read_evaluation(config.evaluation))
    return write_report(config, load(find_task(task).report))


def print_tasks(_config: NoConfig) -> None:
    """Print the name and summary of every task, and the settings that it alone accepts."""
    for name, task in TASKS.items():
        print(f"{name:<14}{task.summary}")
        for verb in ("finetune", "evaluate", "predict"):
            if keys := getattr(task, f"{verb}_keys"):
                print(f"{'':<14}only here: {verb} {', '.join(keys)}")


def _check_keys(config: Any, keys_of: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse settings of other tasks.

    Raises:
        UserError: names the key and the tasks that accept it.
    """
    for key in dict.fromkeys(key for keys in keys_of.values() for key in keys):
        owners = [name for name, keys in keys_of.items() if key in keys]
        if config.task not in owners and not _is_default(config, key):
            raise UserError(
                f"{key} belongs to task {' or '.join(owners)}: leave it out, or set task: {owners[0]} "
                f"(task is {config.task})"
            )


def _is_default(config: Any, key: str) -> bool:
    """True where a dotted key has the default of its dataclass."""
    *sections, name = key.split(".")
    for section in sections:
        config = getattr(config, section)
    field = next(f for f in fields(config) if f.name == name)
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    return bool(getattr(config, name) == default)
