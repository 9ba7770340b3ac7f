"""The steps that the evaluations of all tasks share: check, load, score, write evaluation.json and maps.npz, print."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from climax_hpc.checkpoint.format import Checkpoint, load_checkpoint
from climax_hpc.config.inference import EvaluateConfig
from climax_hpc.config.parser import nearest, to_dict
from climax_hpc.distributed import process_group
from climax_hpc.distributed.launcher import World
from climax_hpc.distributed.lost_ranks import lost_ranks_reported
from climax_hpc.errors import UserError
from climax_hpc.evaluation.bootstrap import Bootstrap
from climax_hpc.evaluation.output import EVALUATION_FILE, MAPS_FILE, Evaluation, Result
from climax_hpc.evaluation.stored import TRUTH, ModelEntry, VariableEntry
from climax_hpc.fields.calendars import to_seconds, within
from climax_hpc.fields.variables import lookup
from climax_hpc.inference.calibration_file import CALIBRATION_FILE
from climax_hpc.utils.atomic import write_together
from climax_hpc.utils.files import json_writer
from climax_hpc.utils.folder_lock import is_empty
from climax_hpc.utils.provenance import provenance

Array = NDArray[np.float64]
Period = tuple[str, str] | None
"""First and last date; None: all times."""


class TaskEvaluation(Protocol):
    """What a task provides: its data and models, checked and ready to be scored."""

    @property
    def source(self) -> str:
        """Name of the source scored against."""
        ...

    @property
    def data_sha256(self) -> str:
        """Checksum of the data set's manifest."""
        ...

    @property
    def variables(self) -> tuple[str, ...]:
        """Registry names scored."""
        ...

    @property
    def baselines(self) -> Mapping[str, str]:
        """Label -> what the baseline forecasts."""
        ...

    def score(self, world: World) -> Result | None:
        """Score all models and baselines; None on all ranks but the first."""
        ...

    def maps(self) -> dict[str, NDArray[Any]]:
        """The arrays of maps.npz."""
        ...

    def text(self, content: dict[str, Any]) -> str:
        """The scores as a table for a terminal."""
        ...


def run_evaluation(
    config: EvaluateConfig, prepare: Callable[[EvaluateConfig, Mapping[str, Checkpoint]], TaskEvaluation]
) -> Path:
    """Evaluate the checkpoints of the config and return the path of evaluation.json.

    `prepare` reads the data and builds the models; it refuses bad input before anything is written.

    Raises:
        UserError: bad input; the message names the key or file and the fix, and nothing is left behind.
        RankLost: another rank is gone (exit status 76).
    """
    world = process_group.detect()
    if world.size > 1:
        process_group.connect()
    folder = Path(config.run_folder)
    with process_group.locked_by_first(folder, "run_folder"):
        _check_folder(folder)
        checkpoints = {label: load_checkpoint(path) for label, path in config.models.items()}
        with lost_ranks_reported(world, "start the same command again"):
            task = prepare(config, checkpoints)  # all ranks fit baselines together
            result = task.score(world)
        if result is not None:  # rank 0
            content = Evaluation(
                task=config.task,
                source=task.source,
                settings=to_dict(config),
                provenance=provenance(ranks=world.size, launcher=world.launcher, manifest_sha256=task.data_sha256),
                models={label: _describe(checkpoint) for label, checkpoint in checkpoints.items()},
                baselines=task.baselines,
                variables={
                    v: VariableEntry(short_name=lookup(v).short_name, units=lookup(v).units) for v in task.variables
                },
                result=result,
            ).to_json()
            maps = _maps_writer(task.maps())
            more = {folder / name: write for name, write in result.files.items()}
            write_together({folder / MAPS_FILE: maps, **more, folder / EVALUATION_FILE: json_writer(content)})
            if CALIBRATION_FILE not in result.files:
                (folder / CALIBRATION_FILE).unlink(missing_ok=True)  # of an earlier evaluation
            print(task.text(content), flush=True)
    return folder / EVALUATION_FILE


def check_labels(config: EvaluateConfig, baselines: Iterable[str], *, and_reference: bool = True) -> None:
    """Refuse labels of models that are a baseline's, and a reference that is no label.

    Raises:
        UserError: names the label.
    """
    baselines = list(baselines)
    labels = [*config.models, *baselines]
    for label in config.models:
        if label in (*baselines, TRUTH):
            raise UserError(f"models: the label {label!r} is that of a baseline or of the truth; choose another")
    for label in config.ensembles.checkpoints:
        if label in (*labels, TRUTH):
            raise UserError(
                f"ensembles.checkpoints: the label {label!r} is that of a model, of a baseline or of the truth; choose "
                "another"
            )
    if and_reference and config.reference not in labels:
        raise UserError(
            f"reference: {config.reference!r} is no label{nearest(config.reference, labels)}; there are "
            f"{', '.join(labels)}"
        )


def bootstrap_of(config: EvaluateConfig, step_hours: float) -> Bootstrap:
    """The bootstrap that the config asks for, with blocks in steps of the data."""
    steps = None if config.block_hours is None else max(1, round(config.block_hours / step_hours))
    return Bootstrap(resamples=config.resamples, confidence=config.confidence, block_steps=steps)


def warn_of_seen_data(hours_T: Array, calendar: str, periods: Iterable[tuple[Period, str]]) -> None:
    """Print a warning for each of the periods, with what used it, that contains one of the times to be scored."""
    seconds_T = to_seconds(hours_T)
    for period, what in periods:
        if within(seconds_T, calendar, period).any():
            print(f"evaluate: warning: period overlaps {what}, so these scores are not of unseen data", flush=True)


def seen_by(checkpoints: Mapping[str, Checkpoint], source: str) -> Iterator[tuple[Period, str]]:
    """The periods of a source that the models were trained and validated on, as far as the checkpoints say."""
    for label, checkpoint in checkpoints.items():
        known = checkpoint.metadata.training
        for period, how in known.seen_of(source) if known else ():
            yield period, f"the period that {label!r} was {how} on"


def _check_folder(folder: Path) -> None:
    """Refuse a folder that holds anything but an evaluation."""
    if folder.is_dir() and not is_empty(folder) and not (folder / EVALUATION_FILE).is_file():
        raise UserError(
            f"run_folder: folder {folder} is not empty and holds no evaluation; choose another with --run_folder"
        )


def _describe(checkpoint: Checkpoint) -> ModelEntry:
    config = checkpoint.metadata.config
    return ModelEntry(
        checkpoint=str(checkpoint.path),
        kind=config.kind,
        step=checkpoint.metadata.step,
        weights_sha256=checkpoint.weights_sha256,
        parameters=sum(tensor.numel() for tensor in checkpoint.weights.values()),
        output_mode=config.output_mode,
    )


def _maps_writer(arrays: Mapping[str, NDArray[Any]]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    return write
