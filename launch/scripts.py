"""The folder of the batch scripts, the subcommands that run as jobs, and the folder that a job writes to."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from climax_hpc.config.inference import EvaluateConfig
from climax_hpc.config.parser import nearest, read_config
from climax_hpc.config.training import FinetuneConfig, PretrainConfig
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.errors import UserError

CONFIGS: dict[str, type[Any]] = {
    "pack": PackConfig,
    "pretrain": PretrainConfig,
    "finetune": FinetuneConfig,
    "evaluate": EvaluateConfig,
}
"""Subcommand that can run as a job -> its config, as `climax_hpc.cli` has them (a test compares)."""
_FOLDER_KEYS = ("run_folder", "output")


def scripts() -> Path:
    """The folder of the batch scripts of the installed package."""
    return Path(str(files("climax_hpc.slurm")))


def folder_of(subcommand: str, arguments: list[str]) -> Path:
    """The folder that a subcommand writes to, from its settings.

    Raises:
        UserError: no such job, or settings that the subcommand itself would refuse; names the config, which may have
            been edited since an earlier attempt.
    """
    if subcommand not in CONFIGS:
        known = ", ".join(CONFIGS)
        raise UserError(f"{subcommand!r} does not run as a job{nearest(subcommand, CONFIGS)}; use one of {known}")
    try:
        config = read_config(CONFIGS[subcommand], f"climax-hpc {subcommand}", arguments)
    except UserError as error:
        name = arguments[arguments.index("--config") + 1] if "--config" in arguments[:-1] else ""
        error.args = (str(error) if name in str(error) else f"config {name}: {error}",)
        raise
    return Path(next(getattr(config, key) for key in _FOLDER_KEYS if hasattr(config, key)))
