"""`climax-hpc evaluate`: models and baselines scored on exactly the same forecasts of a held-out period.

RUN/evaluation.json     settings, provenance, scores[label][variable][lead] = {rmse, mae, bias, acc}; what
                        findings.py adds: intervals likewise, comparison, other_scores, regions, spectra
RUN/maps.npz            one forecast of the headline model and its truth
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from climax_hpc.checkpoint.format import Pretrained, load_pretrained
from climax_hpc.checkpoint.metadata import common_window
from climax_hpc.checkpoint.regional import domain_of
from climax_hpc.config.inference import HEADLINE, EvaluateConfig
from climax_hpc.config.parser import nearest
from climax_hpc.data.dataset import DataSet, PackedSource, Segment, overlap
from climax_hpc.data.sampler import Sample
from climax_hpc.distributed import process_group
from climax_hpc.errors import UserError
from climax_hpc.evaluation.accumulators import cells_of
from climax_hpc.evaluation.baselines import DESCRIPTIONS, DESCRIPTIONS_OF_MEANS, build_baselines
from climax_hpc.evaluation.bootstrap import Bootstrap
from climax_hpc.evaluation.output import check_folder, check_labels, common_entries, removed_if_failed, write_maps
from climax_hpc.evaluation.scorecard import EVALUATION_FILE, MAPS_FILE, SCHEMA, SCHEMA_VERSION, Scorecard
from climax_hpc.evaluation.scoring import ForecastScoring, forecast_pairs, lead_key, sample_forecast
from climax_hpc.evaluation.statistics import ForecastStatistics
from climax_hpc.fields.averaging_window import Window
from climax_hpc.fields.grid import latitude_weights
from climax_hpc.fields.regional_grid import Domain, same_domain
from climax_hpc.fields.variables import lookup
from climax_hpc.inference.forecaster import Forecaster
from climax_hpc.shards.manifest import read_manifest
from climax_hpc.utils.files import write_json


def evaluate(config: EvaluateConfig) -> Path:
    """Score every model and baseline and return the path of evaluation.json.

    Raises:
        UserError: bad input; the message names the key or file and the mend, and nothing is left behind.
    """
    world = process_group.detect()
    if world.size > 1:
        process_group.connect()
    folder = Path(config.run_folder)
    check_folder(folder)
    dataset = DataSet(config.dataset)
    source = dataset.select([config.source])[0]
    leads = sorted(set(config.lead_hours))
    spans = source.within(config.period)
    warn_of_overlap(spans, source.within(config.train_period))
    checkpoints = {label: load_pretrained(path) for label, path in config.models.items()}
    window = common_window({label: checkpoint.about.trained for label, checkpoint in checkpoints.items()})
    steps = window.over(source.step_hours, source.name) if window else None
    pairs = {lead: forecast_pairs(source, spans, lead, "lead_hours", steps) for lead in leads}
    for_map = forecast_pairs(source, spans, config.map_lead_hours, "map_lead_hours", steps)
    scoring = build_scoring(config, source, checkpoints, window=window, packed_period=_packed_period(dataset))
    statistics = ForecastStatistics(scoring, _bootstrap(config, source), config.reference)
    score = partial(scoring.score, pairs, batch_size=config.batch_size, threads=config.threads, on_lead=statistics.add)
    if world.rank:
        score(world=world)
        return folder / EVALUATION_FILE
    with removed_if_failed(folder):
        scores = score(world=world)
        content = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "source": source.name,
            **common_entries(config, world, dataset.manifest_sha256, checkpoints, scoring.variables),
            "baselines": DESCRIPTIONS_OF_MEANS if window else DESCRIPTIONS,
            **_scope(scoring, window),
            "lead_hours": leads,
            "pairs": {lead_key(lead): len(samples) for lead, samples in pairs.items()},
            "map": _write_maps(folder, scoring, for_map[len(for_map) // 2], next(iter(config.models))),
            "scores": scores,
            **statistics.content(),
        }
        write_json(folder / EVALUATION_FILE, content)
    print(Scorecard(content=content).text_table(HEADLINE), flush=True)
    return folder / EVALUATION_FILE


def build_scoring(
    config: EvaluateConfig,
    source: PackedSource,
    checkpoints: Mapping[str, Pretrained],
    *,
    window: Window | None,
    packed_period: str,
) -> ForecastScoring:
    """Models and baselines over the variables that the config asks for, or all that a model forecasts.

    `window`: what all of the models forecast means over.

    Raises:
        UserError: a label taken twice, a variable that the source or every model lacks, a model on another grid.
    """
    check_labels(config, DESCRIPTIONS)
    for name in config.variables or []:
        if lookup(name).name not in source.channels:
            raise UserError(
                f"variables: source {source.name} has no channel {name!r}{nearest(name, source.channels)}; "
                f"it holds {', '.join(source.channels)}"
            )
    domain = common_domain(checkpoints)
    models = {
        label: Forecaster(
            checkpoint,
            source,
            variables=config.variables,
            device=process_group.device(),
            rollout_hours=config.rollout_hours.get(label),
        )
        for label, checkpoint in checkpoints.items()
    }
    served = {name for model in models.values() for name in model.variables}
    for name in set(config.variables or []) - served:
        raise UserError(f"variables: no model forecasts {name}; they forecast {', '.join(sorted(served))}")
    variables = tuple(name for name in source.channels if name in served)
    lead_hours = [*config.lead_hours, config.map_lead_hours]
    scoring = ForecastScoring(
        source=source,
        variables=variables,
        models=models,
        baselines=build_baselines(
            source, variables, train_period=config.train_period, lead_hours=lead_hours, window=window
        ),
        weight_H=latitude_weights(source.grid, config.latitude_weights),
        packed_period=packed_period,
        regions=tuple(config.regions),
        spectra_lead_hours=() if domain else _spectra_leads(config),  # no circle of latitude lies in a region
        domain=domain,
        window=window.over(source.step_hours, source.name) if window else None,
    )
    _check_regions(scoring)
    return scoring


def _spectra_leads(config: EvaluateConfig) -> tuple[float, ...]:
    leads = sorted(set(config.lead_hours))
    return (leads[0], leads[len(leads) // 2], leads[-1]) if config.spectra else ()


def common_domain(checkpoints: Mapping[str, Pretrained]) -> Domain | None:
    """What the regional ones among the models see; None where all are global.

    Raises:
        UserError: they are models of several regions.
    """
    domains = {label: domain for label, c in checkpoints.items() if (domain := domain_of(c))}
    if not domains:
        return None
    first = next(iter(domains.values()))
    if not same_domain(first, list(domains.values())):
        named = ", ".join(f"{label!r} of {domain.region.name}" for label, domain in domains.items())
        raise UserError(f"models: regional models of several regions ({named}): evaluate each region by itself")
    return first


def _check_regions(scoring: ForecastScoring) -> None:
    """Refuse regions of which regional models forecast no cell."""
    if scoring.cells is None:
        return
    there = [set(index.tolist()) for index in scoring.cells]
    for name, cells in cells_of(scoring.source.grid, scoring.regions).items():
        if not all(held & set(index.tolist()) for held, index in zip(there, cells, strict=True)):
            raise UserError(f"regions: the models forecast nothing of {name}; leave it out")


def _scope(scoring: ForecastScoring, window: Window | None) -> dict[str, Any]:
    """What the scores are of, where not of states on the whole grid."""
    found: dict[str, Any] = {}
    if scoring.domain:
        rows, columns = scoring.domain.region_grid.shape
        found["domain"] = {**asdict(scoring.domain.region), "cells": [rows, columns]}
    if window:
        found["window"] = asdict(window)
    return found


def _bootstrap(config: EvaluateConfig, source: PackedSource) -> Bootstrap:
    steps = None if config.block_hours is None else max(1, round(config.block_hours / source.step_hours))
    return Bootstrap(resamples=config.resamples, confidence=config.confidence, block_steps=steps)


def _packed_period(dataset: DataSet) -> str:
    """The train_period that the data set, and so its climatology, was packed with."""
    return " … ".join(read_manifest(dataset.folder).settings.get("train_period") or ["all times"])


def _write_maps(folder: Path, scoring: ForecastScoring, sample: Sample, label: str) -> dict[str, Any]:
    """Write maps.npz and return what it shows."""
    write_maps(folder, sample_forecast(scoring, sample, label))
    source = scoring.source
    return {
        "file": MAPS_FILE,
        "model": label,
        "lead_hours": sample.lead_steps * source.step_hours,
        "start": source.date(sample.time_index).isoformat(),
        "valid": source.date(sample.time_index + sample.lead_steps).isoformat(),
    }


def warn_of_overlap(held_out: Sequence[Segment], trained: Sequence[Segment]) -> None:
    """Say so where the held-out period is not held out."""
    if overlap(held_out, trained):
        print("evaluate: warning: period overlaps train_period, so these scores are not of unseen data", flush=True)
