"""`climax-hpc predict`: forecasts from packed data, NetCDF or zarr, written as CF-compliant NetCDF or zarr."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from climax_hpc.checkpoint.format import Checkpoint, load_checkpoint
from climax_hpc.config.ensemble_output import ensemble_output_of
from climax_hpc.config.inference import PredictConfig
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.distributed import process_group
from climax_hpc.distributed.lost_ranks import lost_ranks_reported
from climax_hpc.inference.ensemble import Ensemble, model_grid
from climax_hpc.inference.initial_conditions import (
    InitialConditions,
    ShardClimatology,
    choose_source,
    choose_starts,
    date_of,
)
from climax_hpc.inference.member_statistics import MemberGatherer
from climax_hpc.inference.open_input import FileStates, open_input
from climax_hpc.inference.shared_forecasts import shared_band, written_by_first
from climax_hpc.inference.writers import Writer, open_writer
from climax_hpc.utils.files import sha256
from climax_hpc.utils.progress import Progress

_IDENTIFIED_BYTES = 256 << 20
"""States of the input that are read to tell whether it has changed, at most."""


def predict(config: PredictConfig) -> Path:
    """Forecast from every selected start and return the path of the output.

    Raises:
        UserError: bad input; files finished before an error stay, and the same command resumes after them.
        RankLost: another rank is gone (exit status 76).
    """
    with lost_ranks_reported(process_group.detect(), "start the same command again"):
        return _predict(config)


def _predict(config: PredictConfig) -> Path:
    """As `predict`; with a band, all ranks call this together."""
    if config.sequence_parallel == 1:
        process_group.check_single_process("predict", ", once for each part of the period")
    checkpoints = {label: load_checkpoint(path) for label, path in config.models.items()}
    band = shared_band(checkpoints, config.sequence_parallel, all_ranks=True)
    states, packed = open_input(config, model_grid(next(iter(checkpoints.values()))))
    climatology = _open_climatology(config, packed)
    ensemble = Ensemble(
        checkpoints,
        states,
        climatology=climatology,
        variables=config.variables,
        rollout_hours=config.rollout_hours,
        precision=config.precision,
        band=band,
        output=ensemble_output_of(config),
    )
    starts = ensemble.starts(choose_starts(states, config.period, config.start_every_hours), _print_note)
    hours = [float(states.hours[i]) for i in starts]
    for note in ensemble.notes(config.lead_hours, hours):
        _print_note(note)
    content = ensemble.content(config.lead_hours, hours, {"input": states.name})

    def opened() -> AbstractContextManager[Writer]:
        identities = _identities(config, states, starts, climatology)
        settings = _settings(config, checkpoints, states, hours) | identities
        return open_writer(config.output, config.layout, content, hours, settings)

    with written_by_first(opened, band) as writer:
        path = _write_all(ensemble, starts, config, writer)
    _print(f"{len(starts)} starts, {len(config.lead_hours)} lead times, {ensemble.size} members: {path}")
    return path


def _print(text: str) -> None:
    if process_group.detect().is_first:
        print(f"predict: {text}", flush=True)


def _print_note(note: str) -> None:
    _print(f"note: {note}")


def _open_climatology(config: PredictConfig, packed: PackedSource | None) -> ShardClimatology | None:
    if config.climatology:
        found = DataSet(config.climatology)
        return ShardClimatology(choose_source(found, config.climatology_source or config.source, "climatology_source"))
    return ShardClimatology(packed) if packed else None


def _settings(
    config: PredictConfig, checkpoints: dict[str, Checkpoint], states: InitialConditions, hours: Sequence[float]
) -> dict[str, Any]:
    """Settings that a resumed run into the same output must share; earlier ones wrote no precision, layout, members."""
    return {
        "models": {label: checkpoint.weights_sha256 for label, checkpoint in checkpoints.items()},
        "input": states.name,
        "climatology": config.climatology,
        "lead_hours": list(config.lead_hours),
        "rollout_hours": config.rollout_hours,
        "variables": config.variables,
        "regrid": config.regrid,
        "precision": None if config.precision == "float32" else config.precision,
        "layout": None if config.layout == "cf" else config.layout,
        **config.settings(),
        "calibration": sha256(Path(config.calibration)) if config.calibration else None,
        "starts": [date_of(h, states.calendar).isoformat() for h in (hours[0], hours[-1])] + [len(hours)],
    }


def _identities(
    config: PredictConfig, states: FileStates, starts: Sequence[int], climatology: ShardClimatology | None
) -> dict[str, str]:
    """What tells apart two states of the input, and of a climatology of its own, by the settings that name them.

    Of input that is not packed, the states of as many starts as `_IDENTIFIED_BYTES` hold, evenly spaced.
    """
    if Path(config.output).suffix == ".nc":
        return {}  # is never resumed
    state_bytes = 8 * len(states.channels) * int(np.prod(states.grid.shape))
    most = min(len(starts), max(2, _IDENTIFIED_BYTES // state_bytes))
    places = np.unique(np.linspace(0, len(starts) - 1, most).round().astype(int))
    found = {"input_sha256": states.identity([starts[place] for place in places])}
    return found | ({"climatology_sha256": climatology.identity} if climatology and config.climatology else {})


def _write_all(ensemble: Ensemble, starts: Sequence[int], config: PredictConfig, writer: Writer) -> Path:
    """Forecast the starts that are not written yet, in batches."""
    todo = writer.todo()
    if len(todo) < len(starts):
        _print(f"resuming after {len(starts) - len(todo)} of {len(starts)} starts")
    at_once, shown = ensemble.starts_at_once(config.batch_size), process_group.detect().is_first
    groups = [todo[first : first + at_once] for first in range(0, len(todo), at_once)]
    write = writer.write
    if config.has_statistics and shown:
        write = MemberGatherer(writer, ensemble.size, keep_members=config.keep_members).write
    progress = Progress("predict", [len(group) for group in groups], "starts", shown=shown)
    try:
        for number, group in enumerate(groups):
            writer.open(group)
            pairs = [(place, starts[place]) for place in group]
            ensemble.forecast(pairs, config.lead_hours, config.batch_size, write)
            writer.close()
            progress(number, None)
    finally:
        progress.close()
    return writer.finish()
