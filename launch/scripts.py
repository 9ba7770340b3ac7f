"""Where the batch scripts lie, and the folder that a verb will write to."""

from importlib.resources import files
from pathlib import Path

from climax_hpc.cli import VERBS, load
from climax_hpc.config.parser import read_config

_FOLDER_KEYS = ("run_folder", "output")


def scripts() -> Path:
    """The folder of the batch scripts of the installed package."""
    return Path(str(files("climax_hpc.slurm")))


def folder_of(verb: str, arguments: list[str]) -> Path:
    """The folder that a verb writes to, by its settings.

    Raises:
        UserError: the settings are bad, as the verb itself would say.
    """
    config = read_config(load(VERBS[verb].config), f"climax-hpc {verb}", arguments)
    return Path(next(getattr(config, key) for key in _FOLDER_KEYS if hasattr(config, key)))
