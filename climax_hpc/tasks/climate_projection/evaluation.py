"""`climax-hpc evaluate` of climate projections: networks, pattern scaling and climatology on the same years.

RUN/evaluation.json     settings, provenance, scores[label][variable] = {spatial, global, total} (`scores.py`), their
                        intervals likewise, comparison with the reference, rmse[label][variable] of the mean maps
RUN/maps.npz            latitudes, longitudes; mean maps over the years and the global mean of every year, of the truth
                        and of every label: map/<label>, series/<label> (O, H, W), (N, O)
Dimensions: N years · R resamples · O variables · H, W grid.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.checkpoint.format import load_pretrained
from climax_hpc.config.inference import EvaluateConfig
from climax_hpc.config.parser import nearest
from climax_hpc.config.training import require
from climax_hpc.data.dataset import DataSet, PackedSource
from climax_hpc.distributed import process_group
from climax_hpc.errors import UserError
from climax_hpc.evaluation.bootstrap import draw_blocks, runs_of, wilks_block
from climax_hpc.evaluation.output import check_folder, check_labels, common_entries, removed_if_failed, write_maps
from climax_hpc.evaluation.scorecard import EVALUATION_FILE, PROJECTION_SCHEMA, PROJECTION_SCHEMA_VERSION
from climax_hpc.evaluation.scoring import TRUTH
from climax_hpc.fields.grid import latitude_weights
from climax_hpc.tasks.climate_projection.baselines import DESCRIPTIONS, PatternScaling, TrainingMean, YearlyModel
from climax_hpc.tasks.climate_projection.model import ProjectionModel
from climax_hpc.tasks.climate_projection.nrmse import SCORES, nrmse, resampled_nrmse
from climax_hpc.tasks.climate_projection.yearly_data import check_holds, fields, projected_years
from climax_hpc.utils.files import write_json

Array = NDArray[np.float64]
_HOURS_PER_YEAR = 365 * 24


def evaluate(config: EvaluateConfig) -> Path:
    """Score models and baselines on the years of `period` of the test scenario; returns evaluation.json's path.

    Raises:
        UserError: bad input; nothing is written.
    """
    process_group.check_alone("evaluate of task projection")
    folder = Path(config.run_folder)
    check_folder(folder)
    checkpoints = {label: load_pretrained(path) for label, path in config.models.items()}
    dataset = DataSet(config.dataset)
    source = dataset.select([config.source])[0]
    models = {
        label: ProjectionModel(p, process_group.device(), batch_size=config.batch_size)
        for label, p in checkpoints.items()
    }
    check_labels(config, DESCRIPTIONS)
    variables = _variables(config, source, models)
    years = projected_years(source, config.period, max(model.years for model in models.values()))
    truth_NOHW = np.stack([fields(source, variables, t) for t in years])
    _check_whole(truth_NOHW, source, years, variables)
    training = _training_sources(config, dataset, source)
    everyone: dict[str, YearlyModel] = {
        **models,
        "climatology": TrainingMean(training, variables, config.train_period),
        "pattern scaling": PatternScaling(training, variables, config.train_period),
    }
    projected = {}
    for label, one in everyone.items():
        places = [one.variables.index(name) for name in variables]
        projected[label] = one.project(source, years)[:, places]
    weight_H = latitude_weights(source.grid, "cos")
    content = {
        "schema": PROJECTION_SCHEMA,
        "schema_version": PROJECTION_SCHEMA_VERSION,
        "source": source.name,
        "identity": source.identity,
        "training_sources": [s.name for s in training],
        "years": [source.date(t).year for t in years],
        **common_entries(config, process_group.detect(), dataset.manifest_sha256, checkpoints, variables),
        "baselines": DESCRIPTIONS,
        **_scores(config, projected, truth_NOHW, weight_H, years, variables),
    }
    with removed_if_failed(folder):
        write_maps(folder, _maps(source, projected | {TRUTH: truth_NOHW}, weight_H))
        write_json(folder / EVALUATION_FILE, content)
    print(text_table(content), flush=True)
    return folder / EVALUATION_FILE


def _variables(config: EvaluateConfig, source: PackedSource, models: Mapping[str, ProjectionModel]) -> list[str]:
    """What is scored: what the config asks for, or all that every model projects."""
    common = [v for v in next(iter(models.values())).variables if all(v in m.variables for m in models.values())]
    for name in config.variables or []:
        require(name in common, f"variables: not every model projects {name}{nearest(name, common)}")
    found = [v for v in common if config.variables is None or v in config.variables]
    require(bool(found), "variables: the models have none in common; judge them apart")
    check_holds(source, found, "which is scored")
    for model in models.values():
        model.check(source)
    return found


def _training_sources(config: EvaluateConfig, dataset: DataSet, source: PackedSource) -> list[PackedSource]:
    if config.train_sources is None:
        found = [s for s in dataset.select(None) if s.name != source.name]
    else:
        found = dataset.select(config.train_sources)
        if source.name in [s.name for s in found]:
            print(f"evaluate: warning: {source.name} is among train_sources, so the baselines have seen it", flush=True)
    require(
        bool(found), f"train_sources: {dataset.folder} holds nothing but {source.name}; pack the training scenarios too"
    )
    return found


def _check_whole(truth_NOHW: Array, source: PackedSource, years: Sequence[int], variables: Sequence[str]) -> None:
    for year, truth_OHW in zip(years, truth_NOHW, strict=True):
        for name, truth_HW in zip(variables, truth_OHW, strict=True):
            if not np.isfinite(truth_HW).all():
                raise UserError(
                    f"source {source.name} lacks values of {name} in {source.date(year).year}, and the scores are of "
                    "whole fields: leave the variable out with variables, or take other years with period"
                )


def _scores(
    config: EvaluateConfig,
    projected: Mapping[str, Array],
    truth_NOHW: Array,
    weight_H: Array,
    years: Sequence[int],
    variables: Sequence[str],
) -> dict[str, Any]:
    """Scores, intervals on the same draws for all, and differences of the total from the reference's."""
    runs = runs_of(years)
    block = _block_years(config, projected, truth_NOHW, weight_H, runs)
    draws_RN = draw_blocks(runs, block, config.resamples) if config.resamples else np.empty((0, len(years)))
    tail = 50 * (1 - config.confidence)
    found: dict[str, Any] = {key: {label: {} for label in projected} for key in ("scores", "intervals", "rmse")}
    differences: dict[str, Any] = {label: {} for label in projected if label != config.reference}
    for o, name in enumerate(variables):
        y_NHW = truth_NOHW[:, o]
        totals = {}
        for label, fields_NOHW in projected.items():
            x_NHW = fields_NOHW[:, o]
            found["scores"][label][name] = nrmse(x_NHW, y_NHW, weight_H)
            error_HW = (x_NHW - y_NHW).mean(axis=0)
            found["rmse"][label][name] = float(np.sqrt((error_HW**2 * weight_H[:, None]).mean()))
            if config.resamples:
                drawn = resampled_nrmse(x_NHW, y_NHW, weight_H, draws_RN)
                totals[label] = drawn["total"]
                found["intervals"][label][name] = {
                    score: [float(v) for v in np.percentile(drawn[score], (tail, 100 - tail))] for score in SCORES
                }
        for label in differences if config.resamples else ():
            drawn_R = totals[label] - totals[config.reference]
            here, there = (found["scores"][x][name]["total"] for x in (label, config.reference))
            differences[label][name] = {
                "total": here - there,
                "interval": [float(v) for v in np.percentile(drawn_R, (tail, 100 - tail))],
            }
    if not config.resamples:
        del found["intervals"]
        return found
    return found | {"block_years": block, "comparison": {"reference": config.reference, "differences": differences}}


def _block_years(
    config: EvaluateConfig, projected: Mapping[str, Array], truth_NOHW: Array, weight_H: Array, runs: Sequence[int]
) -> int:
    """Years of a block: as configured, or the longest that any error's autocorrelation asks for (Wilks 1997)."""
    if config.block_hours is not None:
        return max(1, min(round(config.block_hours / _HOURS_PER_YEAR), max(runs)))
    squares = (((x - truth_NOHW) ** 2).mean(-1) @ weight_H for x in projected.values())
    return max(wilks_block(column_N, runs) for square_NO in squares for column_N in square_NO.T)


def _maps(source: PackedSource, everything: Mapping[str, Array], weight_H: Array) -> dict[str, Array]:
    """The arrays of maps.npz."""
    arrays = {"lat": source.grid.lat, "lon": source.grid.lon}
    for label, fields_NOHW in everything.items():
        arrays[f"map/{label}"] = fields_NOHW.mean(axis=0)
        arrays[f"series/{label}"] = fields_NOHW.mean(axis=-1) @ weight_H / len(weight_H)
    return arrays


def text_table(content: Mapping[str, Any]) -> str:
    """The scores as text: one block per variable, one row per label."""
    first, last = content["years"][0], content["years"][-1]
    lines = [f"NRMSE on {content['source']}, {first} … {last} (spatial, global, total = spatial + 5·global)"]
    width = max(len(label) for label in content["scores"]) + 2
    for name, about in content["variables"].items():
        lines.append(f"{about['short_name']} [{about['units']}]")
        for label, table in content["scores"].items():
            numbers = "  ".join(f"{table[name][score]:8.3f}" for score in SCORES)
            between = content.get("intervals", {}).get(label, {}).get(name, {}).get("total")
            tail = f"  ({between[0]:.3f} … {between[1]:.3f})" if between else ""
            lines.append(f"  {label:<{width}}{numbers}{tail}")
    return "\n".join(lines)
