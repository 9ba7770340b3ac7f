"""`climax-hpc evaluate`: models and baselines scored on exactly the same forecasts of a held-out period.

RUN/evaluation.json     settings, provenance, scores[label][variable][lead] = {rmse, mae, bias, acc}, their intervals,
                        the comparison with the reference; of forecasts also other_scores, regions, spectra, divergence
RUN/maps.npz            one forecast of the headline model and its truth
RUN/calibration.npz     where ensembles are calibrated: what was fitted, for `climax-hpc predict`
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.checkpoint.format import Checkpoint, load_checkpoint
from climax_hpc.checkpoint.metadata import common_window
from climax_hpc.config.inference import HEADLINE, EvaluateConfig
from climax_hpc.config.parser import nearest
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.distributed import process_group
from climax_hpc.distributed.launcher import World
from climax_hpc.errors import UserError
from climax_hpc.evaluation.baselines import BaselineData, all_baselines, build_baselines
from climax_hpc.evaluation.baselines.base import ForecastModel
from climax_hpc.evaluation.divergence_scoring import DivergenceScoring, divergence_text
from climax_hpc.evaluation.ensemble_setup import (
    calibration_files,
    check_members,
    ensemble_table,
    fit_calibrations,
    season_caveats,
    with_ensembles,
)
from climax_hpc.evaluation.ensemble_text import ensemble_text
from climax_hpc.evaluation.ensembles.base import NetworkEnsemble
from climax_hpc.evaluation.ensembles.checkpoints import CheckpointEnsemble
from climax_hpc.evaluation.forecast_pairs import forecast_pairs, started_every
from climax_hpc.evaluation.output import MAPS_FILE, Result, lead_key
from climax_hpc.evaluation.region_setup import check_regions, common_domain, patch_of_regions, scope_of
from climax_hpc.evaluation.scorecard import Scorecard
from climax_hpc.evaluation.scoring import ForecastScoring, sample_forecast
from climax_hpc.evaluation.statistics import ForecastStatistics
from climax_hpc.evaluation.task_evaluation import (
    bootstrap_of,
    check_labels,
    run_evaluation,
    seen_by,
    warn_of_seen_data,
)
from climax_hpc.fields.averaging_window import Window
from climax_hpc.fields.grid import latitude_weights
from climax_hpc.fields.variables import lookup
from climax_hpc.inference.forecaster import Forecaster
from climax_hpc.inference.shared_forecasts import shared_band
from climax_hpc.inference.tendencies import takes_tendencies
from climax_hpc.model.band import RowBand
from climax_hpc.shards.manifest import read_manifest


def evaluate(config: EvaluateConfig) -> Path:
    """Score every model and baseline and return the path of evaluation.json.

    Raises:
        UserError: bad input; the message names the key or file and the fix, and nothing is left behind.
    """
    return run_evaluation(config, ForecastEvaluation)


class ForecastEvaluation:
    """Forecasts, global or regional, of states or of means over a window (`task_evaluation.TaskEvaluation`)."""

    def __init__(self, config: EvaluateConfig, checkpoints: Mapping[str, Checkpoint]) -> None:
        """Read the data and build models and baselines.

        Raises:
            UserError: no such source or period, a lead time that does not fit, or models that the data do not fit.
        """
        self._config, dataset = config, DataSet(config.dataset)
        self._members = {
            label: {path: load_checkpoint(path) for path in paths}
            for label, paths in config.ensembles.checkpoints.items()
        }
        self._networks = {**{label: {config.models[label]: one} for label, one in checkpoints.items()}, **self._members}
        every = {**checkpoints, **{path: one for some in self._members.values() for path, one in some.items()}}
        self.data_sha256, source = dataset.manifest_sha256, dataset.select([config.source])[0]
        self._leads = sorted(set(config.lead_hours))
        spans = source.within(config.period)
        packed = _packed_train_period(dataset)
        used = [
            (config.train_period, "train_period"),
            (packed, f"the times that the climatology was made from (train_period of pack: {_words(packed)})"),
        ]
        hours = np.concatenate([source.hours[span.first : span.first + span.steps] for span in spans])
        warn_of_seen_data(hours, source.calendar, [*used, *seen_by(every, source.name)])
        self._window = common_window({label: checkpoint.metadata.training for label, checkpoint in every.items()})
        steps = self._window.over(source.step_hours, source.name) if self._window else None
        with_tendencies = any(takes_tendencies(checkpoint.metadata.in_variables) for checkpoint in every.values())
        history = (source.tendency_steps or 0) if with_tendencies else 0  # the same starts for all models
        pairs = {
            lead: forecast_pairs(source, spans, lead, "lead_hours", steps, history_steps=history)
            for lead in self._leads
        }
        self._pairs = {lead: started_every(config.start_every_hours, found, source) for lead, found in pairs.items()}
        for_map = forecast_pairs(source, spans, config.map_lead_hours, "map_lead_hours", steps, history_steps=history)
        self._shown = for_map[len(for_map) // 2]
        self._maps: dict[str, NDArray[Any]] | None = None
        scoring = _build_scoring(
            config, source, checkpoints, window=self._window, packed_period=_words(packed), members=self._members
        )
        samples = [s for some in self._pairs.values() for s in some]
        self._scoring = with_ensembles(scoring, config, samples, history)
        self._caveats = season_caveats(self._scoring, samples)
        self.source, self.variables = source.name, self._scoring.variables
        self._divergence = DivergenceScoring(config, self._scoring, self._pairs) if config.truth_members else None

    @property
    def baselines(self) -> dict[str, str]:
        """Label -> what the baseline forecasts."""
        return {b.label: b.description_of_means if self._window else b.description for b in all_baselines()}

    def score(self, world: World) -> Result | None:
        """Score all models and baselines; None on all ranks but the first.

        Raises:
            UserError: a model's forecast is not finite, no forecast of a variable is valid, or a shard is damaged.
        """
        config, scoring = self._config, self._scoring
        spacing = config.start_every_hours or scoring.source.step_hours
        bootstrap = bootstrap_of(config, spacing)
        statistics = ForecastStatistics(
            {label: model.variables for label, model in scoring.all_models.items()},
            scoring.regions,
            bootstrap=bootstrap,
            reference=config.reference,
            start_hours=spacing,
            steps_between_starts=round(spacing / scoring.source.step_hours),
            ensembles=ensemble_table(scoring, self._members, self._caveats, bootstrap),
        )
        most = max((model.members for model in scoring.with_members.values()), default=1)
        # Ranks that make a forecast together make one after the other.
        threads = config.threads if scoring.sequence_parallel == 1 else 1
        batch_size = max(1, config.batch_size // most)
        if world.is_first:
            for note in (note for notes in self._caveats.values() for note in notes):
                print(f"evaluate: warning: {note}", flush=True)
        fit_calibrations(scoring, world, threads)
        scoring.score(self._pairs, statistics.add, batch_size=batch_size, threads=threads, world=world)
        if scoring.sequence_parallel > 1:
            self._maps = self.maps()
        if world.rank:
            return None
        details = {
            **scope_of(scoring, self._window),
            "lead_hours": self._leads,
            "pairs": {lead_key(lead): len(samples) for lead, samples in self._pairs.items()},
            "map": self._describe_map(),
            **statistics.details(),
            **(self._divergence.score(scoring.all_models) if self._divergence else {}),
        }
        table = statistics.globe
        return Result(
            scores=table.scores,
            intervals=table.intervals,
            comparison=table.comparison,
            details=details,
            files=calibration_files(scoring, config, self._networks),
        )

    def maps(self) -> dict[str, NDArray[Any]]:
        """One forecast of the headline model, its truth, and the grid."""
        if self._maps is not None:
            return self._maps
        return sample_forecast(self._scoring, self._shown, next(iter(self._config.models)), self._leads)

    def text(self, content: dict[str, Any]) -> str:
        """RMSE of the headline variables, scores of ensembles, and divergence from a true ensemble if there is one."""
        card = Scorecard(content=content)
        scores = "\n".join([card.text_table(HEADLINE), *ensemble_text(content, card.headline(HEADLINE))])
        return "\n\n".join(part for part in (scores, divergence_text(content, HEADLINE)) if part)

    def _describe_map(self) -> dict[str, Any]:
        source, shown = self._scoring.source, self._shown
        return {
            "file": MAPS_FILE,
            "model": next(iter(self._config.models)),
            "lead_hours": shown.lead_steps * source.step_hours,
            "start": source.date(shown.time_index).isoformat(),
            "valid": source.date(shown.time_index + shown.lead_steps).isoformat(),
        }


def _build_scoring(
    config: EvaluateConfig,
    source: PackedSource,
    checkpoints: Mapping[str, Checkpoint],
    *,
    window: Window | None,
    packed_period: str,
    members: Mapping[str, Mapping[str, Checkpoint]] | None = None,
) -> ForecastScoring:
    """Models and baselines over the variables that the config asks for, or all that a model forecasts.

    `window`: averaging window of the forecasts of all models. `members`: label -> path -> member of an ensemble of
    checkpoints.

    Raises:
        UserError: a label used twice, a variable that the source or every model lacks, a model on another grid.
    """
    check_labels(config, [baseline.label for baseline in all_baselines()], and_reference=False)
    for name in config.variables or []:
        if lookup(name).name not in source.channels:
            raise UserError(
                f"variables: source {source.name} has no channel {name!r}{nearest(name, source.channels)}; "
                f"it holds {', '.join(source.channels)}"
            )
    of_ensembles = members or {}
    every = {**checkpoints, **{path: one for some in of_ensembles.values() for path, one in some.items()}}
    check_members(config, every)
    domain, band = common_domain(every), shared_band(every, config.sequence_parallel)
    models = {label: _model(config, source, one, label, band) for label, one in checkpoints.items()}
    ensembles = {label: _ensemble(config, source, some, label, band) for label, some in of_ensembles.items()}
    served = {name for model in (*models.values(), *ensembles.values()) for name in model.variables}
    for name in set(config.variables or []) - served:
        raise UserError(f"variables: no model forecasts {name}; they forecast {', '.join(sorted(served))}")
    variables = tuple(name for name in source.channels if name in served)
    data = BaselineData(
        source=source,
        variables=variables,
        train_period=config.train_period,
        lead_hours=(*config.lead_hours, config.map_lead_hours),
        window=window,
    )
    scoring = ForecastScoring(
        source=source,
        variables=variables,
        models=models,
        ensembles=ensembles,
        baselines=build_baselines(data),
        weight_H=latitude_weights(source.grid, config.latitude_weights),
        packed_period=packed_period,
        regions=tuple(config.regions),
        spectra_lead_hours=() if domain else _spectra_leads(config),  # a region contains no whole circle of latitude
        domain=domain,
        patch=patch_of_regions(config, source, every),
        window=data.window_steps,
        sequence_parallel=config.sequence_parallel,
        device=process_group.device(),
    )
    check_regions(scoring)
    return scoring


def _ensemble(
    config: EvaluateConfig, source: PackedSource, members: Mapping[str, Checkpoint], label: str, band: RowBand | None
) -> CheckpointEnsemble:
    """An ensemble of checkpoints by path; no two of them have the same noise, so that their members are independent."""
    networks = {
        path: _forecaster(config, source, one, label, band, first_member=place * config.members)
        for place, (path, one) in enumerate(members.items())
    }
    return CheckpointEnsemble(networks, label)


def _model(
    config: EvaluateConfig, source: PackedSource, checkpoint: Checkpoint, label: str, band: RowBand | None
) -> ForecastModel:
    """A deterministic forecaster, or an ensemble where the network has noise and the config asks for members."""
    network = _forecaster(config, source, checkpoint, label, band)
    return network if len(network.members) == 1 else NetworkEnsemble(network, len(network.members))


def _forecaster(
    config: EvaluateConfig,
    source: PackedSource,
    checkpoint: Checkpoint,
    label: str,
    band: RowBand | None,
    *,
    first_member: int = 0,
) -> Forecaster:
    """The forecasts of a checkpoint as the config asks for them; `label` names its roll-out."""
    return Forecaster(
        checkpoint,
        source,
        variables=config.variables,
        device=process_group.device(),
        precision=config.precision,
        rollout_hours=config.rollout_hours.get(label),
        band=band,
        members=range(first_member, first_member + config.members),
        noise_seed=config.ensembles.seed,
    )


def _spectra_leads(config: EvaluateConfig) -> tuple[float, ...]:
    leads = sorted(set(config.lead_hours))
    return (leads[0], leads[len(leads) // 2], leads[-1]) if config.spectra else ()


def _packed_train_period(dataset: DataSet) -> tuple[str, str] | None:
    """The train_period that the data set, and so its climatology, was packed with; None: all times."""
    period = read_manifest(dataset.folder).settings.get("train_period")
    return None if not period else (str(period[0]), str(period[1]))


def _words(period: tuple[str, str] | None) -> str:
    return "all times" if period is None else " … ".join(period)
