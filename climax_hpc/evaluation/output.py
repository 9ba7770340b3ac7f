"""evaluation.json and maps.npz: their names, what evaluation.json holds of every task, and reading it.

Light to import: the machine that submits jobs reads evaluations with it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from climax_hpc.config.parser import to_dict
from climax_hpc.evaluation.stored import STORED, ModelEntry, VariableEntry
from climax_hpc.utils.files import read_json
from climax_hpc.utils.typed_json import check_schema, typed

EVALUATION_FILE = "evaluation.json"
MAPS_FILE = "maps.npz"
SCHEMA, SCHEMA_VERSION = "climax_hpc/evaluation", 1
PROJECTION_SCHEMA, PROJECTION_SCHEMA_VERSION = "climax_hpc/projection", 2
_VERSIONS = {SCHEMA: SCHEMA_VERSION, PROJECTION_SCHEMA: PROJECTION_SCHEMA_VERSION}

LeadScores = dict[str, dict[str, dict[str, dict[str, float | None]]]]
"""Label -> variable -> lead [h] -> metric -> value."""
YearScores = dict[str, dict[str, dict[str, float]]]
"""Label -> variable -> metric -> value, of tasks without lead times."""


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """Differences of all models and baselines from one of them, on the same draws of the bootstrap."""

    reference: str
    differences: Mapping[str, Any]
    """Label -> variable -> (lead ->) the difference, its `interval`, and what else the task compares."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What an evaluation has found; the parts that a task fills in."""

    scores: LeadScores | YearScores
    intervals: Mapping[str, Any] | None
    """As `scores`, with the two ends in place of each value; None without a bootstrap."""
    comparison: PairedComparison | None
    """None without a bootstrap."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Entries of evaluation.json that only this task has."""
    files: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)
    """Name -> what writes a further file beside evaluation.json."""
    schema: str = SCHEMA
    """`PROJECTION_SCHEMA` where the scores have no lead times."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The content of evaluation.json."""

    task: str
    source: str
    settings: Mapping[str, Any]
    """The config."""
    provenance: Mapping[str, Any]
    models: Mapping[str, ModelEntry]
    """Label -> model; the headline model first."""
    baselines: Mapping[str, str]
    """Label -> what it forecasts."""
    variables: Mapping[str, VariableEntry]
    """Registry name -> variable."""
    result: Result

    def to_json(self) -> dict[str, Any]:
        """As written; keys that do not apply are left out."""
        optional = {
            "intervals": self.result.intervals,
            "comparison": self.result.comparison and asdict(self.result.comparison),
        }
        return {
            "schema": self.result.schema,
            "schema_version": _VERSIONS[self.result.schema],
            "task": self.task,
            "source": self.source,
            "settings": self.settings,
            "provenance": self.provenance,
            "models": {label: asdict(model) for label, model in self.models.items()},
            "variables": {name: asdict(variable) for name, variable in self.variables.items()},
            "baselines": dict(self.baselines),
            "scores": self.result.scores,
            **{name: value for name, value in optional.items() if value is not None},
            **self.result.details,
        }


def read_evaluation(folder: str | Path) -> dict[str, Any]:
    """The content of evaluation.json, of any task.

    Raises:
        UserError: there is none, it is not an evaluation that this version reads, or it lacks what `stored` says.
    """
    path, fix = Path(folder) / EVALUATION_FILE, "run `climax-hpc evaluate` again"
    content: dict[str, Any] = read_json(path, "what `climax-hpc evaluate` writes; run it first")
    is_projection = isinstance(content, dict) and content.get("schema") == PROJECTION_SCHEMA
    schema = PROJECTION_SCHEMA if is_projection else SCHEMA
    check_schema(content, schema, _VERSIONS[schema], str(path), fix, oldest=_VERSIONS[schema])
    kind = STORED.get(task_of_evaluation(content))
    if kind is not None:
        stored = typed(content, kind, str(path), fix, extra="ignore")
        content["settings"] = to_dict(stored.settings) | content["settings"]  # keys that the file lacks are defaults
    return content


def task_of_evaluation(content: Mapping[str, Any]) -> str:
    """The task of an evaluation; those of before 2026-12 name it only where it is downscaling."""
    default = "projection" if content["schema"] == PROJECTION_SCHEMA else "forecast"
    return str(content.get("task", default))


def headline_model(content: Mapping[str, Any]) -> str:
    """Label of the first model of an evaluation."""
    return str(next(iter(content["models"])))


def uses_anomaly_mode(content: Mapping[str, Any]) -> bool:
    """True where a model of an evaluation is not ClimaX as published."""
    return any(model["output_mode"] == "anomaly" for model in content["models"].values())


def lead_key(lead_hours: float) -> str:
    """A lead time as the keys of evaluation.json spell it."""
    return f"{lead_hours:g}"


def lead_titles(lead_hours: Sequence[float]) -> list[str]:
    """Lead times as column headings."""
    return [f"{lead_key(lead)} h" for lead in lead_hours]
