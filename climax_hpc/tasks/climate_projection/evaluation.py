"""`climax-hpc evaluate` with `task: projection`: networks, pattern scaling and climatology on the same years.

RUN/evaluation.json     settings, provenance, scores[label][variable] = {spatial, global, total} (evaluation/nrmse.py),
                        their intervals, the comparison with the reference, rmse[label][variable] of the mean maps
RUN/maps.npz            latitudes, longitudes; of the truth and of every label the mean map over the years and the
                        global mean of every year: map/<label> (O, H, W), series/<label> (N, O)
Dimensions: N years · R resamples · O variables · H, W grid.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.checkpoint.format import Checkpoint
from climax_hpc.config.inference import EvaluateConfig
from climax_hpc.config.parser import nearest
from climax_hpc.config.training import require
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.distributed import process_group
from climax_hpc.distributed.launcher import World
from climax_hpc.errors import UserError
from climax_hpc.evaluation.bootstrap import Bootstrap, between, draw_blocks, runs_of, wilks_block
from climax_hpc.evaluation.metrics import Array
from climax_hpc.evaluation.nrmse import PROJECTION_METRICS, TOTAL, nrmse, resampled_nrmse
from climax_hpc.evaluation.output import PROJECTION_SCHEMA, PairedComparison, Result, YearScores
from climax_hpc.evaluation.stored import TRUTH
from climax_hpc.evaluation.task_evaluation import check_labels, run_evaluation, seen_by, warn_of_seen_data
from climax_hpc.fields.grid import latitude_weights
from climax_hpc.tasks.climate_projection.baselines import BASELINES, YearlyModel
from climax_hpc.tasks.climate_projection.model import ProjectionModel
from climax_hpc.tasks.climate_projection.yearly_data import check_holds, fields, projected_years

_HOURS_PER_YEAR = 365 * 24


def evaluate(config: EvaluateConfig) -> Path:
    """Score models and baselines on the years of `period` of the test scenario; returns evaluation.json's path.

    Raises:
        UserError: bad input; nothing is written.
    """
    process_group.check_single_process("evaluate of task projection")
    return run_evaluation(config, ProjectionEvaluation)


class ProjectionEvaluation:
    """Projected years against a scenario (`climax_hpc.evaluation.task_evaluation.TaskEvaluation`)."""

    def __init__(self, config: EvaluateConfig, checkpoints: Mapping[str, Checkpoint]) -> None:
        """Read the years of the test scenario and build the models.

        Raises:
            UserError: no such source or years, values missing in the truth, or models that the data do not fit.
        """
        self._config, dataset = config, DataSet(config.dataset)
        self._source = dataset.select([config.source])[0]
        self._models = {
            label: ProjectionModel(
                checkpoint, process_group.device(), batch_size=config.batch_size, precision=config.precision
            )
            for label, checkpoint in checkpoints.items()
        }
        check_labels(config, BASELINES)
        self.variables = tuple(_variables(config, self._source, self._models))
        self._years = projected_years(self._source, config.period, max(model.years for model in self._models.values()))
        used = seen_by(checkpoints, self._source.name)
        warn_of_seen_data(self._source.hours[self._years], self._source.calendar, used)
        self._truth_NOHW = np.stack([fields(self._source, self.variables, t) for t in self._years])
        _check_whole(self._truth_NOHW, self._source, self._years, self.variables)
        self._training = _training_sources(config, dataset, self._source)
        self._weight_H = latitude_weights(self._source.grid, "cos")
        self.source, self.data_sha256 = self._source.name, dataset.manifest_sha256

    @property
    def baselines(self) -> dict[str, str]:
        """Label -> what the baseline projects."""
        return {label: baseline.description for label, baseline in BASELINES.items()}

    @cached_property
    def _projected(self) -> dict[str, Array]:
        """Label -> fields (N, O, H, W) of models and baselines."""
        all_models: dict[str, YearlyModel] = dict(self._models)
        for label, baseline in BASELINES.items():
            all_models[label] = baseline.fit(self._training, self.variables, self._config.train_period)
        found = {}
        for label, one in all_models.items():
            places = [one.variables.index(name) for name in self.variables]
            found[label] = one.project(self._source, self._years)[:, places]
        return found

    def score(self, _world: World) -> Result:
        """Scores, intervals on the same draws for all, and differences of the total from the reference's."""
        table, rmse = _YearTable(self._config, self._years, self._projected, self._truth_NOHW, self._weight_H), {}
        for o, name in enumerate(self.variables):
            table.add(name, o)
        for label, projected_NOHW in self._projected.items():
            error_OHW = (projected_NOHW - self._truth_NOHW).mean(axis=0)
            rmse[label] = {
                name: float(np.sqrt((error_OHW[o] ** 2 * self._weight_H[:, None]).mean()))
                for o, name in enumerate(self.variables)
            }
        details = {
            "identity": self._source.identity,
            "training_sources": [source.name for source in self._training],
            "years": [self._source.date(t).year for t in self._years],
            "rmse": rmse,
            **({"block_years": table.block_years} if self._config.resamples else {}),
        }
        return Result(
            scores=table.scores,
            intervals=table.intervals,
            comparison=table.comparison,
            details=details,
            schema=PROJECTION_SCHEMA,
        )

    def maps(self) -> dict[str, NDArray[Any]]:
        """The grid, and mean maps and global means of the truth, the models and the baselines."""
        arrays: dict[str, NDArray[Any]] = {"lat": self._source.grid.lat, "lon": self._source.grid.lon}
        for label, fields_NOHW in (self._projected | {TRUTH: self._truth_NOHW}).items():
            arrays[f"map/{label}"] = fields_NOHW.mean(axis=0)
            arrays[f"series/{label}"] = fields_NOHW.mean(axis=-1) @ self._weight_H / len(self._weight_H)
        return arrays

    def text(self, content: dict[str, Any]) -> str:
        """All scores: one block per variable, one row per label."""
        return _text_table(content)


class _YearTable:
    """Metrics, intervals and differences from the reference, filled variable by variable."""

    def __init__(
        self,
        config: EvaluateConfig,
        years: Sequence[int],
        projected: Mapping[str, Array],
        truth_NOHW: Array,
        weight_H: Array,
    ) -> None:
        self._projected, self._truth_NOHW, self._weight_H = projected, truth_NOHW, weight_H
        self._reference, self._resamples = config.reference, config.resamples
        self._percentiles = Bootstrap(resamples=config.resamples, confidence=config.confidence).percentiles
        runs = runs_of(years)
        self.block_years = _block_years(config, projected, truth_NOHW, weight_H, runs)
        self._draws_RN = draw_blocks(runs, self.block_years, config.resamples)
        self.scores: YearScores = {label: {} for label in projected}
        self._intervals: dict[str, dict[str, Any]] = {label: {} for label in projected}
        self._differences: dict[str, dict[str, Any]] = {x: {} for x in projected if x != config.reference}

    def add(self, name: str, place: int) -> None:
        """Score the variable at `place`."""
        truth_NHW, draws = self._truth_NOHW[:, place], {}
        for label, fields_NOHW in self._projected.items():
            self.scores[label][name] = nrmse(fields_NOHW[:, place], truth_NHW, self._weight_H)
            if self._resamples:
                draws[label] = resampled_nrmse(fields_NOHW[:, place], truth_NHW, self._weight_H, self._draws_RN)
                self._intervals[label][name] = {
                    metric: between(values_R, self._percentiles) for metric, values_R in draws[label].items()
                }
        for label in self._differences if self._resamples else ():
            here, there = (self.scores[x][name][TOTAL.name] for x in (label, self._reference))
            drawn_R = draws[label][TOTAL.name] - draws[self._reference][TOTAL.name]
            self._differences[label][name] = {
                TOTAL.name: here - there,
                "interval": between(drawn_R, self._percentiles),
            }

    @property
    def intervals(self) -> dict[str, Any] | None:
        """As `scores`, with the ends of the interval; None without a bootstrap."""
        return self._intervals if self._resamples else None

    @property
    def comparison(self) -> PairedComparison | None:
        """Differences from the reference; None without a bootstrap."""
        return PairedComparison(reference=self._reference, differences=self._differences) if self._resamples else None


def _variables(config: EvaluateConfig, source: PackedSource, models: Mapping[str, ProjectionModel]) -> list[str]:
    """The variables to score: those of the config, or all that every model projects."""
    common = [v for v in next(iter(models.values())).variables if all(v in m.variables for m in models.values())]
    for name in config.variables or []:
        require(name in common, f"variables: not every model projects {name}{nearest(name, common)}")
    found = [v for v in common if config.variables is None or v in config.variables]
    require(bool(found), "variables: the models have none in common; evaluate them separately")
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
    require(bool(found), f"train_sources: {dataset.folder} holds only {source.name}; pack the training scenarios too")
    return found


def _check_whole(truth_NOHW: Array, source: PackedSource, years: Sequence[int], variables: Sequence[str]) -> None:
    for year, truth_OHW in zip(years, truth_NOHW, strict=True):
        for name, truth_HW in zip(variables, truth_OHW, strict=True):
            if not np.isfinite(truth_HW).all():
                raise UserError(
                    f"source {source.name} has missing values of {name} in {source.date(year).year}, but the scores "
                    "need whole fields: exclude the variable with variables, or choose other years with period"
                )


def _block_years(
    config: EvaluateConfig, projected: Mapping[str, Array], truth_NOHW: Array, weight_H: Array, runs: Sequence[int]
) -> int:
    """Years of a block: as configured, or the longest that the autocorrelation of an error requires (Wilks 1997)."""
    if config.block_hours is not None:
        return max(1, min(round(config.block_hours / _HOURS_PER_YEAR), max(runs)))
    squares = (((x - truth_NOHW) ** 2).mean(-1) @ weight_H for x in projected.values())
    return max(wilks_block(column_N, runs) for square_NO in squares for column_N in square_NO.T)


def _text_table(content: Mapping[str, Any]) -> str:
    first, last = content["years"][0], content["years"][-1]
    titles = f"{', '.join(metric.title for metric in PROJECTION_METRICS.values())} = {TOTAL.description}"
    lines = [f"NRMSE on {content['source']}, {first} … {last} ({titles})"]
    width = max(len(label) for label in content["scores"]) + 2
    for name, about in content["variables"].items():
        lines.append(f"{about['short_name']} [{about['units']}]")
        for label, table in content["scores"].items():
            numbers = "  ".join(f"{table[name][metric]:8.3f}" for metric in PROJECTION_METRICS)
            ends = content.get("intervals", {}).get(label, {}).get(name, {}).get(TOTAL.name)
            tail = f"  ({ends[0]:.3f} … {ends[1]:.3f})" if ends else ""
            lines.append(f"  {label:<{width}}{numbers}{tail}")
    return "\n".join(lines)
