"""`climax-hpc evaluate` with `task: downscaling`: models and interpolation on the held-out pairs.

RUN/evaluation.json     as `climax_hpc.evaluation.evaluate` writes it, with the one lead time 0 h and Pearson's
                        correlation in place of the ACC; `distributions` of single cells; `unpaired`,
                        where distributions are all
RUN/maps.npz            one time of the headline model and its truth
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from climax_hpc.checkpoint.format import Pretrained, load_pretrained
from climax_hpc.config.inference import EvaluateConfig
from climax_hpc.data.dataset import DataSet, PackedSource
from climax_hpc.distributed import process_group
from climax_hpc.errors import UserError
from climax_hpc.evaluation.bootstrap import Bootstrap, LeadIntervals
from climax_hpc.evaluation.evaluate import warn_of_overlap
from climax_hpc.evaluation.metrics import Array
from climax_hpc.evaluation.output import check_folder, check_labels, common_entries, removed_if_failed, write_maps
from climax_hpc.evaluation.scorecard import EVALUATION_FILE, MAPS_FILE, SCHEMA, SCHEMA_VERSION
from climax_hpc.evaluation.scoring import lead_key
from climax_hpc.fields.grid import latitude_weights
from climax_hpc.fields.variables import lookup
from climax_hpc.tasks.downscaling.coarse_input import CoarseReader
from climax_hpc.tasks.downscaling.distributions import UNPAIRED_NOTE, compare
from climax_hpc.tasks.downscaling.grids import METHODS
from climax_hpc.tasks.downscaling.metrics import METRICS, PairScores
from climax_hpc.tasks.downscaling.models import Downscaler, InterpolationBaseline, TrainedDownscaler
from climax_hpc.tasks.downscaling.pairs import PairedData, PairedSource
from climax_hpc.tasks.downscaling.scoring import (
    BASELINES,
    DownscalingScoring,
    TruthReader,
    apply_unpaired,
    interpolations,
)
from climax_hpc.utils.files import write_json
from climax_hpc.utils.formatting import format_score

_LEAD = lead_key(0.0)


def evaluate(config: EvaluateConfig) -> Path:
    """Score every model and the interpolations, and return the path of evaluation.json.

    Raises:
        UserError: bad input; the message names the key or file and the mend, and nothing is left behind.
    """
    process_group.check_alone("evaluate of task downscaling")
    folder = Path(config.run_folder)
    check_folder(folder)
    data = PairedData(config.dataset)
    paired = data.select([config.source])[0]
    spans, train = paired.within(config.period), paired.within(config.train_period)
    warn_of_overlap(spans, train)
    checkpoints = {label: load_pretrained(path) for label, path in config.models.items()}
    scoring = build_scoring(config, paired, checkpoints)
    drivers = {label: DataSet(path).select(None) for label, path in config.unpaired.items()}
    with removed_if_failed(folder):
        scores, samples = scoring.score(spans, config.batch_size)
        content = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "task": "downscaling",
            "source": paired.name,
            "coarse_source": paired.coarse.name,
            **common_entries(config, process_group.detect(), data.sha256, checkpoints, scoring.variables),
            "baselines": BASELINES,
            "lead_hours": [0.0],
            "pairs": {_LEAD: sum(span.steps for span in spans)},
            "map": _write_maps(folder, scoring, spans[len(spans) // 2].first, next(iter(config.models))),
            **_statistics(config, scoring, scores, _starts(paired, spans)),
            "distributions": scoring.distributions(samples, samples["truth"]),
            "unpaired": {
                label: _unpaired(config, scoring, checkpoints, one, samples["truth"]) for label, one in drivers.items()
            },
        }
        write_json(folder / EVALUATION_FILE, content)
    print(text_table(content), flush=True)
    return folder / EVALUATION_FILE


def build_scoring(
    config: EvaluateConfig, paired: PairedSource, checkpoints: Mapping[str, Pretrained]
) -> DownscalingScoring:
    """Models and interpolations over the variables that the config asks for, or all that a model gives.

    Raises:
        UserError: a label taken twice, a variable that no model gives, a model of another task or grid.
    """
    check_labels(config, BASELINES)
    models = {
        label: TrainedDownscaler(
            checkpoint, paired.coarse, paired.fine, variables=config.variables, device=process_group.device()
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
        baselines=interpolations(paired, variables, paired.within(config.train_period), config.batch_size),
        weight_H=latitude_weights(paired.fine.grid, config.latitude_weights),
        climatology=any(model.needs_climatology for model in models.values()),
    )


def _starts(paired: PairedSource, spans: Sequence[Any]) -> list[int]:
    """Numbers of the pairs scored, with one left out between runs, which blocks of the bootstrap must not cross."""
    return [n + run for run, span in enumerate(spans) for n in range(span.first, span.first + span.steps)]


def _statistics(
    config: EvaluateConfig, scoring: DownscalingScoring, scores: Mapping[str, PairScores], starts: Sequence[int]
) -> dict[str, Any]:
    """Scores, their intervals, and every contestant's RMSE compared with the reference's."""
    steps = None if config.block_hours is None else max(1, round(config.block_hours / scoring.paired.fine.step_hours))
    bootstrap = Bootstrap(resamples=config.resamples, confidence=config.confidence, block_steps=steps)
    found = LeadIntervals({label: one.series for label, one in scores.items()}, starts, bootstrap)
    table: dict[str, Any] = {"scores": {}, "intervals": {}}
    differences: dict[str, Any] = {}
    there = scores[config.reference].variables
    for label, one in scores.items():
        for key in table:
            table[key][label] = {name: {_LEAD: {}} for name in one.variables}
        for place, name in enumerate(one.variables):
            for metric in METRICS:
                table["scores"][label][name][_LEAD][metric] = found.value(label, metric, place)
                table["intervals"][label][name][_LEAD][metric] = found.interval(label, metric, place)
            if label != config.reference and name in there:
                difference = found.difference(label, place, config.reference, there.index(name))
                differences.setdefault(label, {})[name] = {_LEAD: difference}
    if not config.resamples:
        return {"scores": table["scores"]}
    return table | {
        "block_hours": {_LEAD: found.block_steps * scoring.paired.fine.step_hours},
        "comparison": {"reference": config.reference, "differences": differences},
    }


def _unpaired(
    config: EvaluateConfig,
    scoring: DownscalingScoring,
    checkpoints: Mapping[str, Pretrained],
    sources: Sequence[PackedSource],
    truth_NOHW: Array,
) -> dict[str, Any]:
    """Distributions of what models and interpolations make of a free-running model, and the flag that they are all.

    Raises:
        UserError: several sources, or variables that the free-running model lacks.
    """
    if len(sources) != 1:
        raise UserError(f"unpaired: {', '.join(s.name for s in sources)} are several sources; pack one alone")
    driver, paired = sources[0], scoring.paired
    everyone: dict[str, Downscaler] = {
        label: TrainedDownscaler(
            checkpoint, driver, paired.fine, variables=scoring.variables, device=process_group.device()
        )
        for label, checkpoint in checkpoints.items()
    }
    held = [name for name in scoring.variables if name in driver.channels]
    everyone |= {m: InterpolationBaseline(driver, paired.fine, held, m) for m in METHODS}
    spans = driver.segments
    samples = apply_unpaired(everyone, driver, spans, config.batch_size, scoring.climatology)
    weight_H = scoring.weight_H
    return {
        "source": driver.name,
        "paired": False,
        "note": UNPAIRED_NOTE,
        "times": sum(span.steps for span in spans),
        "scores": {
            label: compare(samples[label], truth_NOHW[:, scoring.places(one)], weight_H, one.variables)
            for label, one in everyone.items()
        },
    }


def _write_maps(folder: Path, scoring: DownscalingScoring, number: int, label: str) -> dict[str, Any]:
    """Write maps.npz and return what it shows."""
    paired, model = scoring.paired, scoring.models[label]
    step = int(paired.fine_N[number])
    coarse = CoarseReader(paired.coarse, climatology=scoring.climatology).read([int(paired.coarse_N[number])])
    arrays = {
        "variables": np.array(model.variables),
        "lat": paired.fine.grid.lat,
        "lon": paired.fine.grid.lon,
        "forecast": model.fine(coarse)[0].astype(np.float32),
        "truth": TruthReader(paired.fine, model.variables).read([step])[0].astype(np.float32),
    }
    if "land_sea_mask" in paired.fine.static:
        arrays["land_sea_mask"] = paired.fine.static["land_sea_mask"]
    write_maps(folder, arrays)
    date = paired.fine.date(step).isoformat()
    return {"file": MAPS_FILE, "model": label, "lead_hours": 0.0, "start": date, "valid": date}


def text_table(content: Mapping[str, Any]) -> str:
    """All scores with the intervals of the RMSE, for a terminal."""
    labels = [*content["models"], *content["baselines"]]
    width = max(len(label) for label in labels) + 2
    lines = [
        f"{content['coarse_source']} -> {content['source']}, {' … '.join(content['settings']['period'])}, "
        f"{content['pairs'][_LEAD]} times"
    ]
    for name, about in content["variables"].items():
        head = f"{'RMSE':>10}  {'interval':<24}{'MAE':>9}{'bias':>11}{'Pearson':>9}{'std ratio':>11}{'Perkins':>9}"
        lines.append(f"{about['short_name']} [{about['units']}]".ljust(width) + head)
        for label in labels:
            if name not in content["scores"].get(label, {}):
                continue
            values = content["scores"][label][name][_LEAD]
            interval = content.get("intervals", {}).get(label, {}).get(name, {}).get(_LEAD, {}).get("rmse")
            spread = " … ".join(format_score(x) for x in interval) if interval else "–"
            cells = content["distributions"][label][name]
            lines.append(
                f"{label:<{width}}{format_score(values['rmse']):>10}  {spread:<24}{format_score(values['mae']):>9}"
                f"{format_score(values['bias']):>11}{values['pearson']:>9.4f}{cells['std_ratio']:>11.3f}"
                f"{cells['perkins']:>9.3f}"
            )
    for label, one in content["unpaired"].items():
        lines.append(f"{label} ({one['source']}), {UNPAIRED_NOTE.split(':')[0]}: distributions alone")
        for who, found in one["scores"].items():
            for name, cells in found.items():
                cell = "  ".join(f"{key} {format_score(value)}" for key, value in cells.items())
                lines.append(f"  {who}, {lookup(name).short_name}: {cell}")
    return "\n".join(lines)
