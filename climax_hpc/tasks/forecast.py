"""Forecasting, global, regional, sub-seasonal or through a roll-out: fine-tune a checkpoint, or train from scratch."""

from dataclasses import asdict

from climax_hpc.checkpoint import Pretrained, load_pretrained
from climax_hpc.config import FinetuneConfig
from climax_hpc.errors import UserError
from climax_hpc.model.config import ModelConfig
from climax_hpc.regional import on_the_globe
from climax_hpc.train import train

# What may differ from the checkpoint: it changes no weight's shape or meaning.
_FREE = ("dropout", "drop_path", "activation_checkpointing")


def finetune(config: FinetuneConfig) -> None:
    """Fine-tune for forecasting on one data set.

    Raises:
        UserError: as `train`, or the checkpoint holds a model of another size.
    """
    start = load_pretrained(config.checkpoint) if config.checkpoint else None
    if start:
        check_same_model(start, config.model)
    train(config, start)


def check_same_model(start: Pretrained, model: ModelConfig) -> None:
    """Refuse a checkpoint whose weights do not fit the configured model.

    Raises:
        UserError: names the first setting that differs, and both values.
    """
    there, here = asdict(on_the_globe(start)), asdict(model)
    differing = [key for key in here if here[key] != there[key] and key not in _FREE]
    if differing:
        key = differing[0]
        raise UserError(
            f"checkpoint {start.path} holds a model with {key} = {there[key]}, "
            f"the config says model.{key} = {here[key]}: "
            f"set model.{key} as in the checkpoint, or train from scratch with checkpoint: null"
        )
