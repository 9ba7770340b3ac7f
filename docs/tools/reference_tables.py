"""Writes the reference page of tasks, metrics, baselines, regions and devices from the tables of the code."""

from collections.abc import Iterable

from climax_hpc.config.ensembles import EnsembleScoresConfig
from climax_hpc.evaluation.baselines import all_baselines
from climax_hpc.evaluation.distributions import DISTRIBUTION_METRICS
from climax_hpc.evaluation.ensemble_metrics import ENERGY_METRICS, ensemble_metrics
from climax_hpc.evaluation.metrics import METRICS, Metric
from climax_hpc.evaluation.nrmse import PROJECTION_METRICS
from climax_hpc.fields.regions import REGIONS, Region
from climax_hpc.kernels.devices import DEVICES
from climax_hpc.tasks.registry import TASKS


def tables_page() -> str:
    """The page as Markdown."""
    metrics = [*METRICS.values(), *DISTRIBUTION_METRICS.values(), *PROJECTION_METRICS.values()]
    of_ensembles = [*ensemble_metrics(EnsembleScoresConfig().percentiles).values(), *ENERGY_METRICS.values()]
    parts = [
        "# Tasks, metrics, baselines, regions, devices\n",
        "## Tasks\n",
        "`climax-hpc tasks` prints them. The settings are those that only this task accepts.\n",
        _table(("task", "what it does", "settings of its own"), (_task_row(name) for name in TASKS)),
        "## Metrics\n",
        _table(("name", "title", "better", "what it is"), map(_metric_row, metrics)),
        "## Scores of ensembles\n",
        "Brier scores are of `ensembles.percentiles`; [Scores of ensembles](../guides/ensemble_scores.md) has the "
        "formulas.\n",
        _table(("name", "title", "better", "what it is"), map(_metric_row, of_ensembles)),
        "## Baselines\n",
        "Those that need no training; see also [Baselines](../guides/baselines.md).\n",
        _table(("baseline", "forecast"), ((one.label, one.description) for one in all_baselines())),
        "## Regions\n",
        _table(("name", "south", "north", "west", "east"), map(_region_row, REGIONS.values())),
        "## Devices\n",
        "Published figures that `plan`, the roofline and the compiler use.\n",
        _table(("device", "memory", "bandwidth", "bfloat16", "target", "source"), map(_device_row, DEVICES)),
    ]
    return "\n".join(parts)


def _task_row(name: str) -> tuple[str, ...]:
    task = TASKS[name]
    own = sorted({*task.finetune_keys, *task.evaluate_keys, *task.predict_keys})
    return f"`{name}`", task.summary, ", ".join(f"`{key}`" for key in own)


def _region_row(region: Region) -> tuple[str, ...]:
    return f"`{region.name}`", *(f"{edge:g}°" for edge in (region.south, region.north, region.west, region.east))


def _device_row(name: str) -> tuple[str, ...]:
    device = DEVICES[name]
    rates = f"{device.bandwidth / 1e12:.3g} TB/s", f"{device.bfloat16 / 1e12:.4g} TFLOP/s"
    return f"`{name}`", f"{device.memory / 1e9:g} GB", *rates, device.target or "", device.source


def _metric_row(metric: Metric) -> tuple[str, ...]:
    return f"`{metric.name}`", metric.title, metric.better or "neither", metric.description


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    columns = list(head)
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
