"""What the evaluations of all tasks share: the run folder, evaluation.json's common entries, maps.npz, labels."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.checkpoint.format import Pretrained
from climax_hpc.config.inference import EvaluateConfig
from climax_hpc.config.parser import nearest, to_dict
from climax_hpc.distributed.launcher import World
from climax_hpc.errors import UserError
from climax_hpc.evaluation.scorecard import EVALUATION_FILE, MAPS_FILE
from climax_hpc.evaluation.scoring import TRUTH
from climax_hpc.fields.variables import lookup
from climax_hpc.utils.files import check_is_folder, make_folder, remove_empty, write_atomically
from climax_hpc.utils.provenance import provenance


def check_labels(config: EvaluateConfig, baselines: Iterable[str]) -> None:
    """Refuse labels of models that are a baseline's, and a reference that is no label.

    Raises:
        UserError: names the label.
    """
    labels = [*config.models, *baselines]
    for label in config.models:
        if label in (*baselines, TRUTH):
            raise UserError(f"models: the label {label!r} is that of a baseline or of the truth; choose another")
    if config.reference not in labels:
        raise UserError(
            f"reference: {config.reference!r} is no label{nearest(config.reference, labels)}; there are "
            f"{', '.join(labels)}"
        )


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds anything but an evaluation."""
    check_is_folder(folder, "run_folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / EVALUATION_FILE).is_file():
        raise UserError(
            f"run_folder: folder {folder} is not empty and holds no evaluation; choose another with --run_folder"
        )


@contextmanager
def removed_if_failed(folder: Path) -> Iterator[None]:
    """Make the folder; should the work fail, remove what was not there before."""
    made = make_folder(folder, "run_folder")
    try:
        yield
    except BaseException:
        if made:
            (folder / MAPS_FILE).unlink(missing_ok=True)
        remove_empty(made)
        raise


def common_entries(
    config: EvaluateConfig,
    world: World,
    data_sha256: str,
    checkpoints: Mapping[str, Pretrained],
    variables: Iterable[str],
) -> dict[str, Any]:
    """What evaluation.json says of every task: settings, provenance, models and variables."""
    return {
        "settings": to_dict(config),
        "provenance": provenance(ranks=world.size, launcher=world.launcher, manifest_sha256=data_sha256),
        "models": {label: _describe(checkpoint) for label, checkpoint in checkpoints.items()},
        "variables": {v: {"short_name": lookup(v).short_name, "units": lookup(v).units} for v in variables},
    }


def _describe(checkpoint: Pretrained) -> dict[str, Any]:
    config = checkpoint.about.config
    return {
        "checkpoint": str(checkpoint.path),
        "kind": config.kind,
        "step": checkpoint.about.step,
        "weights_sha256": checkpoint.weights_sha256,
        "parameters": sum(tensor.numel() for tensor in checkpoint.weights.values()),
        "output_mode": config.output_mode,
    }


def write_maps(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write maps.npz."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    write_atomically(folder / MAPS_FILE, write)
