"""The ensembles of an evaluation of forecasts: which are scored, their thresholds, and what they are compared with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from climax_hpc.checkpoint.format import Checkpoint
from climax_hpc.config.inference import EvaluateConfig
from climax_hpc.config.parser import nearest
from climax_hpc.data.sampler import Sample
from climax_hpc.distributed.launcher import World
from climax_hpc.errors import UserError
from climax_hpc.evaluation.baselines.base import valid_times
from climax_hpc.evaluation.bootstrap import Bootstrap
from climax_hpc.evaluation.ensemble_table import EnsembleTable
from climax_hpc.evaluation.ensembles.build import (
    EnsembleData,
    baseline_ensembles,
    check_settings_are_used,
    thresholds_of,
)
from climax_hpc.evaluation.ensembles.calibrated import CalibratedEnsemble, fit_together
from climax_hpc.evaluation.scoring import ForecastScoring
from climax_hpc.evaluation.stored import EnsembleEntry
from climax_hpc.inference.calibration_file import CALIBRATION_FILE, CalibratedEntry, calibration_writer
from climax_hpc.inference.caveats import season_notes


def with_ensembles(
    scoring: ForecastScoring, config: EvaluateConfig, samples: Sequence[Sample], history_steps: int
) -> ForecastScoring:
    """The same with the ensembles to compare with, thresholds and references, if there is any ensemble.

    `samples`: all forecasts that will be scored; `history_steps`: that they need before the start.

    Raises:
        UserError: a label that there is not, or too few times for as many members or for thresholds.
    """
    given = scoring.with_members
    data = EnsembleData(
        config=config,
        source=scoring.source,
        variables=scoring.variables,
        models=scoring.models,
        baselines=scoring.baselines,
        samples=samples,
        window=scoring.window,
        history_steps=history_steps,
    )
    to_compare = baseline_ensembles(data, given)
    found = replace(scoring, ensembles={**scoring.ensembles, **to_compare})
    _check_label("reference", config.reference, found)
    if not found.with_members:
        return found
    asked = config.ensembles.references
    for label in asked or ():
        _check_label("ensembles.references", label, found)
    default = dict.fromkeys([*to_compare, *data.deterministic, config.reference])
    references = tuple(default if asked is None else dict.fromkeys(asked))
    return replace(found, thresholds=thresholds_of(data), references=references)


def fit_calibrations(scoring: ForecastScoring, world: World, threads: int) -> None:
    """Fit all calibrated ensembles, before anything is scored; all ranks call this.

    Raises:
        UserError: too few forecasts of a variable in ensembles.calibration_period have a truth.
    """
    found = {label: one for label, one in scoring.ensembles.items() if isinstance(one, CalibratedEnsemble)}
    if found and world.is_first:
        print(f"evaluate: fitting {', '.join(found)}", flush=True)
    fit_together(list(found.values()), world=world, threads=threads, sequence_parallel=scoring.sequence_parallel)


def calibration_files(
    scoring: ForecastScoring, config: EvaluateConfig, networks: Mapping[str, Mapping[str, Checkpoint]]
) -> dict[str, Callable[[Path], None]]:
    """calibration.npz, if there are calibrated ensembles of global models: its name and what writes it.

    `networks`: label of a model or ensemble -> its checkpoints.
    """
    source, fitted = scoring.source, []
    for one in scoring.ensembles.values():
        if isinstance(one, CalibratedEnsemble) and scoring.domain is None:
            std_O = torch.from_numpy(source.std_C[[source.channels.index(name) for name in one.variables]])
            entry = CalibratedEntry(
                label=one.label,
                weights_sha256=[checkpoint.weights_sha256 for checkpoint in networks[one.label].values()],
                variables=list(one.variables),
                lead_hours=[lead * source.step_hours for lead in one.lead_steps],
                rollout_hours=config.rollout_hours.get(one.label),
                members=one.members,
                source=source.name,
                period=one.period,
                days=None if one.days is None else list(one.days),
            )
            fitted.append((entry, [one.calibration(lead).scaled(std_O) for lead in one.lead_steps]))
    return {CALIBRATION_FILE: calibration_writer(source.grid, fitted)} if fitted else {}


def season_caveats(scoring: ForecastScoring, samples: Sequence[Sample]) -> dict[str, list[str]]:
    """Label of an ensemble -> a sentence, where forecasts are valid in a season that its bias and spread are not of."""
    source = scoring.source
    hours_N = source.hours[np.unique(valid_times(samples))]
    return {
        label: season_notes(f"{label!r}", one.days, hours_N, source.calendar)
        for label, one in scoring.with_members.items()
        if one.days is not None
    }


def check_members(config: EvaluateConfig, checkpoints: Mapping[str, Checkpoint]) -> None:
    """Refuse members where no network makes any, and settings of ensembles that are not scored.

    Raises:
        UserError: `members` is above 1, and no network has noise; or a setting that nothing uses.
    """
    noise = any(one.metadata.config.noise_dim for one in checkpoints.values())
    if config.members > 1 and not noise:
        raise UserError(
            f"members = {config.members}: none of the models has noise (model.noise_dim is 0), so each makes one "
            "forecast; leave members out, or ask for other ensembles with ensembles.baselines"
        )
    check_settings_are_used(config, noise=noise)


def ensemble_table(
    scoring: ForecastScoring,
    checkpoints: Mapping[str, Mapping[str, Checkpoint]],
    caveats: Mapping[str, list[str]],
    bootstrap: Bootstrap,
) -> EnsembleTable | None:
    """An empty table of the scores of all ensembles; None where there is none.

    `checkpoints`: label of an ensemble of checkpoints -> path -> checkpoint. `caveats`: as of `season_caveats`.
    """
    entries = {
        label: EnsembleEntry(
            kind=model.kind,
            members=model.members,
            description=model.description,
            checkpoints={path: one.weights_sha256 for path, one in checkpoints.get(label, {}).items()},
            caveats=caveats.get(label, []),
        )
        for label, model in scoring.with_members.items()
    }
    if not entries:
        return None
    percentiles = scoring.thresholds.percentiles if scoring.thresholds else ()
    return EnsembleTable(entries, percentiles, bootstrap, scoring.references)


def _check_label(key: str, label: str, scoring: ForecastScoring) -> None:
    """Refuse a label that no forecast has."""
    labels = list(scoring.all_models)
    if label not in labels:
        raise UserError(f"{key}: {label!r} is no label{nearest(label, labels)}; there are {', '.join(labels)}")
