"""`climax-hpc evaluate` with `task: downscaling`: models and interpolation scored on the held-out pairs.

RUN/evaluation.json     as of forecasts, with the one lead time 0 h and Pearson's correlation in place of the ACC;
                        `distributions` of single cells; `unpaired`: distributions of free-running models
RUN/maps.npz            one time of the headline model and its truth
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.checkpoint.format import Checkpoint
from climax_hpc.config.inference import EvaluateConfig
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.distributed import process_group
from climax_hpc.distributed.launcher import World
from climax_hpc.errors import UserError
from climax_hpc.evaluation.distributions import UNPAIRED_NOTE, compare_distributions
from climax_hpc.evaluation.metrics import Array, metrics_of
from climax_hpc.evaluation.output import MAPS_FILE, Result, lead_key
from climax_hpc.evaluation.statistics import ScoreTable
from climax_hpc.evaluation.stored import TRUTH
from climax_hpc.evaluation.task_evaluation import (
    bootstrap_of,
    check_labels,
    run_evaluation,
    seen_by,
    warn_of_seen_data,
)
from climax_hpc.fields.grid import latitude_weights
from climax_hpc.fields.variables import lookup
from climax_hpc.tasks.downscaling.baselines import BASELINES
from climax_hpc.tasks.downscaling.coarse_input import CoarseReader
from climax_hpc.tasks.downscaling.models import Downscaler, TrainedDownscaler
from climax_hpc.tasks.downscaling.pairs import PairedData, PairedSource
from climax_hpc.tasks.downscaling.scoring import (
    DownscalingScoring,
    TruthReader,
    apply_unpaired,
    build_baselines,
    unpaired_baselines,
)
from climax_hpc.utils.formatting import format_score

_LEAD = lead_key(0.0)
_PRINTED_DISTRIBUTIONS = {"std_ratio": "std ratio", "perkins": "Perkins"}
"""Metrics of distributions in the printed table, with their headings there; the report shows all."""


def evaluate(config: EvaluateConfig) -> Path:
    """Score every model and the interpolations, and return the path of evaluation.json.

    Raises:
        UserError: bad input; the message names the key or file and the fix, and nothing is left behind.
    """
    process_group.check_single_process("evaluate of task downscaling")
    return run_evaluation(config, DownscalingEvaluation)


class DownscalingEvaluation:
    """Downscaled fields against the paired truth (`climax_hpc.evaluation.task_evaluation.TaskEvaluation`)."""

    def __init__(self, config: EvaluateConfig, checkpoints: Mapping[str, Checkpoint]) -> None:
        """Read the pairs, build the models and fit the baselines.

        Raises:
            UserError: no such source or period, or models that the data do not fit.
        """
        self._config, self._checkpoints, data = config, checkpoints, PairedData(config.dataset)
        self._paired = data.select([config.source])[0]
        self._spans = self._paired.within(config.period)
        steps = np.concatenate([np.arange(span.first, span.first + span.steps) for span in self._spans])
        fine = self._paired.fine
        used = [(config.train_period, "train_period"), *seen_by(checkpoints, self._paired.name)]
        warn_of_seen_data(fine.hours[self._paired.fine_N[steps]], fine.calendar, used)
        self._scoring = _build_scoring(config, self._paired, checkpoints)
        self._unpaired = {label: _only_source(path) for label, path in config.unpaired.items()}
        self.source, self.data_sha256, self.variables = self._paired.name, data.sha256, self._scoring.variables

    @property
    def baselines(self) -> dict[str, str]:
        """Label -> what the baseline gives."""
        return {label: baseline.description for label, baseline in BASELINES.items()}

    def score(self, _world: World) -> Result:
        """Scores on the pairs; distributions on the pairs and on unpaired fields.

        Raises:
            UserError: a damaged shard, or no valid cell of a variable.
        """
        config, scoring, step_hours = self._config, self._scoring, self._paired.fine.step_hours
        sums, samples = scoring.score(self._spans, config.batch_size)
        table = ScoreTable(
            {label: one.variables for label, one in sums.items()},
            "downscaling",
            bootstrap_of(config, step_hours),
            config.reference,
        )
        block_steps = table.add(0.0, _starts(self._spans), sums)
        details = {
            "coarse_source": self._paired.coarse.name,
            "lead_hours": [0.0],
            "pairs": {_LEAD: sum(span.steps for span in self._spans)},
            "map": self._describe_map(),
            "distributions": scoring.distributions(samples, samples[TRUTH]),
            "unpaired": {label: self._score_unpaired(one, samples[TRUTH]) for label, one in self._unpaired.items()},
            **({"block_hours": {_LEAD: block_steps * step_hours}} if config.resamples else {}),
        }
        return Result(scores=table.scores, intervals=table.intervals, comparison=table.comparison, details=details)

    def _score_unpaired(self, driver: PackedSource, truth_NOHW: Array) -> dict[str, Any]:
        """Distributions of the downscaled fields of a free-running model, with the note that nothing else is scored."""
        config, scoring, fine = self._config, self._scoring, self._paired.fine
        models = {
            label: TrainedDownscaler(
                checkpoint,
                driver,
                fine,
                variables=scoring.variables,
                device=process_group.device(),
                precision=config.precision,
            )
            for label, checkpoint in self._checkpoints.items()
        }
        all_models: dict[str, Downscaler] = {**models, **unpaired_baselines(driver, fine, scoring.variables)}
        spans = driver.segments
        samples = apply_unpaired(all_models, driver, spans, config.batch_size, scoring.climatology)
        return {
            "source": driver.name,
            "paired": False,
            "note": UNPAIRED_NOTE,
            "times": sum(span.steps for span in spans),
            "scores": {
                label: compare_distributions(
                    samples[label], truth_NOHW[:, scoring.places(one)], scoring.weight_H, one.variables
                )
                for label, one in all_models.items()
            },
        }

    @property
    def _shown(self) -> int:
        """Number of the pair on the maps."""
        return int(self._spans[len(self._spans) // 2].first)

    def _describe_map(self) -> dict[str, Any]:
        date = self._paired.fine.date(int(self._paired.fine_N[self._shown])).isoformat()
        model = next(iter(self._config.models))
        return {"file": MAPS_FILE, "model": model, "lead_hours": 0.0, "start": date, "valid": date}

    def maps(self) -> dict[str, NDArray[Any]]:
        """One downscaled field of the headline model, its truth, and the grid."""
        paired, number, model = self._paired, self._shown, next(iter(self._scoring.models.values()))
        coarse = CoarseReader(paired.coarse, climatology=self._scoring.climatology).read([int(paired.coarse_N[number])])
        truth = TruthReader(paired.fine, model.variables).read([int(paired.fine_N[number])])
        arrays: dict[str, NDArray[Any]] = {
            "variables": np.array(model.variables),
            "lat": paired.fine.grid.lat,
            "lon": paired.fine.grid.lon,
            "forecast": model.fine(coarse)[0].astype(np.float32),
            "truth": truth[0].astype(np.float32),
        }
        if "land_sea_mask" in paired.fine.static:
            arrays["land_sea_mask"] = paired.fine.static["land_sea_mask"]
        return arrays

    def text(self, content: dict[str, Any]) -> str:
        """All scores with the intervals of the RMSE."""
        return _text_table(content)


def _build_scoring(
    config: EvaluateConfig, paired: PairedSource, checkpoints: Mapping[str, Checkpoint]
) -> DownscalingScoring:
    """Models and interpolations over the variables that the config asks for, or all that a model gives.

    Raises:
        UserError: a label used twice, a variable that no model gives, a model of another task or grid.
    """
    check_labels(config, BASELINES)
    models = {
        label: TrainedDownscaler(
            checkpoint,
            paired.coarse,
            paired.fine,
            variables=config.variables,
            device=process_group.device(),
            precision=config.precision,
        )
        for label, checkpoint in checkpoints.items()
    }
    served = {name for model in models.values() for name in model.variables}
    for name in set(config.variables or []) - served:
        raise UserError(f"variables: no model downscales {name}; they give {', '.join(sorted(served))}")
    variables = tuple(name for name in paired.fine.channels if name in served)
    return DownscalingScoring(
        paired=paired,
        variables=variables,
        models=models,
        baselines=build_baselines(paired, variables, paired.within(config.train_period), config.batch_size),
        weight_H=latitude_weights(paired.fine.grid, config.latitude_weights),
        climatology=any(model.needs_climatology for model in models.values()),
    )


def _only_source(dataset: str) -> PackedSource:
    sources = DataSet(dataset).select(None)
    if len(sources) != 1:
        raise UserError(
            f"unpaired: {dataset} holds several sources ({', '.join(s.name for s in sources)}); use a data set of one"
        )
    return sources[0]


def _starts(spans: Sequence[Any]) -> list[int]:
    """Numbers of the pairs scored, with one number skipped between runs, which blocks of the bootstrap do not cross."""
    return [n + run for run, span in enumerate(spans) for n in range(span.first, span.first + span.steps)]


def _text_table(content: Mapping[str, Any]) -> str:
    """All metrics with the interval of the RMSE, and the distributions of unpaired fields."""
    labels = [*content["models"], *content["baselines"]]
    width = max(len(label) for label in labels) + 2
    lines = [
        f"{content['coarse_source']} -> {content['source']}, {' … '.join(content['settings']['period'])}, "
        f"{content['pairs'][_LEAD]} times"
    ]
    first, *others = metrics_of("downscaling")
    head = f"{first.title:>10}  {'interval':<24}" + "".join(f"{metric.title:>11}" for metric in others)
    head += "".join(f"  {title}" for title in _PRINTED_DISTRIBUTIONS.values())
    for name, about in content["variables"].items():
        lines.append(f"{about['short_name']} [{about['units']}]".ljust(width) + head)
        for label in labels:
            if name not in content["scores"].get(label, {}):
                continue
            values, cells = content["scores"][label][name][_LEAD], content["distributions"][label][name]
            interval = content.get("intervals", {}).get(label, {}).get(name, {}).get(_LEAD, {}).get(first.name)
            spread = " … ".join(format_score(x) for x in interval) if interval else "–"
            lines.append(
                f"{label:<{width}}{format_score(values[first.name]):>10}  {spread:<24}"
                + "".join(f"{format_score(values[metric.name]):>11}" for metric in others)
                + "".join(f"  {cells[key]:>{len(title)}.3f}" for key, title in _PRINTED_DISTRIBUTIONS.items())
            )
    for label, one in content["unpaired"].items():
        lines.append(f"{label} ({one['source']}), {UNPAIRED_NOTE.split(':')[0]}: distributions only")
        for who, found in one["scores"].items():
            for name, cells in found.items():
                cell = "  ".join(f"{key} {format_score(value)}" for key, value in cells.items())
                lines.append(f"  {who}, {lookup(name).short_name}: {cell}")
    return "\n".join(lines)
