"""The verbs of the downstream tasks: which task a config asks for, and what serves it."""

from importlib import import_module
from pathlib import Path
from typing import Any

from climax_hpc.config.inference import EvaluateConfig, PredictConfig
from climax_hpc.config.training import FinetuneConfig

_SERVED_BY = {
    ("finetune", "forecast"): "climax_hpc.tasks.forecast:finetune",
    ("evaluate", "forecast"): "climax_hpc.evaluation.evaluate:evaluate",
    ("predict", "forecast"): "climax_hpc.inference.predict:predict",
    ("finetune", "downscaling"): "climax_hpc.tasks.downscaling.training:finetune",
    ("evaluate", "downscaling"): "climax_hpc.tasks.downscaling.evaluation:evaluate",
    ("predict", "downscaling"): "climax_hpc.tasks.downscaling.prediction:predict",
    ("finetune", "projection"): "climax_hpc.tasks.climate_projection.training:finetune",
    ("evaluate", "projection"): "climax_hpc.tasks.climate_projection.evaluation:evaluate",
    ("predict", "projection"): "climax_hpc.tasks.climate_projection.prediction:predict",
}


def finetune(config: FinetuneConfig) -> None:
    """Fine-tune for the task of the config; see there for what is raised."""
    _serve("finetune", config)


def evaluate(config: EvaluateConfig) -> Path:
    """Score the models of the config at its task; the path of evaluation.json."""
    return _serve("evaluate", config)


def predict(config: PredictConfig) -> Path:
    """Write what the models of the config give at its task; the path written."""
    return _serve("predict", config)


def _serve(verb: str, config: Any) -> Any:
    module, name = _SERVED_BY[verb, config.task].split(":")
    return getattr(import_module(module), name)(config)
