"""The results of a sweep or pipeline, read from its folder: results.tsv, and the evaluations of its members.

FOLDER/results.tsv               index, task, variable, lead_hours, seed, run_folder, other axes, then state and scores
FOLDER/evaluations/NAME/         as `climax-hpc evaluate` writes it; NAME is that of the member's run folder
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from climax_hpc.errors import UserError
from climax_hpc.evaluation.output import EVALUATION_FILE, read_evaluation
from climax_hpc.evaluation.summary import EVALUATIONS, RESULTS, SUMMARY_COLUMNS, rmse_by_lead, summary_variable
from climax_hpc.fields.variables import lookup
from climax_hpc.report.training_curves import RunHistory
from climax_hpc.utils.files import open_plain

_NOT_AXES = ("index", "run_folder", *SUMMARY_COLUMNS)


@dataclass(frozen=True, kw_only=True)
class MemberResults:
    """One training run of a sweep."""

    name: str
    row: Mapping[str, str]
    """Its line of results.tsv."""
    evaluation: Mapping[str, Any] | None
    """The content of evaluation.json; None where it has not been evaluated."""
    history: RunHistory | None
    """Training curves; None where no step has been logged."""

    @property
    def variable(self) -> str:
        """The variable that an evaluated member is compared by."""
        assert self.evaluation is not None
        return summary_variable(self.evaluation, self.row["variable"].split("+"))

    @property
    def rmse_by_lead(self) -> dict[float, tuple[float, float]]:
        """Lead [h] -> RMSE of an evaluated member and the best of a baseline; see `summary.rmse_by_lead`."""
        assert self.evaluation is not None
        return rmse_by_lead(self.evaluation, self.variable)


@dataclass(frozen=True, kw_only=True)
class SweepResults:
    """All members, in the order of their index."""

    folder: Path
    header: tuple[str, ...]
    members: Sequence[MemberResults]

    @staticmethod
    def is_one(folder: str | Path) -> bool:
        """True for the folder of a sweep or pipeline whose results were collected."""
        return (Path(folder) / RESULTS).is_file()

    @classmethod
    def load(cls, folder: str | Path) -> "SweepResults":
        """Read results.tsv and the evaluations.

        Raises:
            UserError: results.tsv or an evaluation is malformed.
        """
        path = Path(folder) / RESULTS
        with io.TextIOWrapper(open_plain(path), encoding="utf-8", errors="replace", newline="") as file:
            lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        header = tuple(lines[0]) if lines else ()
        lacking = [name for name in ("variable", "seed", *_NOT_AXES) if name not in header]
        if lacking or any(len(line) != len(header) for line in lines):
            raise UserError(
                f"{path} is not a table of results ({', '.join(lacking) or 'rows of different lengths'}): "
                "collect them again"
            )
        rows = [dict(zip(header, line, strict=True)) for line in lines[1:]]
        return cls(folder=path.parent, header=header, members=[_member(path.parent, row) for row in rows])

    @property
    def evaluated(self) -> list[MemberResults]:
        """Members that have scores."""
        return [member for member in self.members if member.evaluation is not None]

    def group(self, member: MemberResults, *, without: Sequence[str] = ("seed",)) -> str:
        """How a figure names a member: the settings that differ between members, except those in `without`."""
        parts = []
        for name in (x for x in self.header if x not in (*_NOT_AXES, *without)):
            value = member.row[name]
            if len({other.row[name] for other in self.members}) > 1:
                parts.append(_readable(name, value))
        return ", ".join(parts) or "all members"


def _member(folder: Path, row: dict[str, str]) -> MemberResults:
    run = Path(row["run_folder"])
    evaluation, metrics = folder / EVALUATIONS / run.name, run / "metrics.jsonl"
    return MemberResults(
        name=run.name,
        row=row,
        evaluation=read_evaluation(evaluation) if (evaluation / EVALUATION_FILE).is_file() else None,
        history=RunHistory.load(run.name, run) if metrics.is_file() and metrics.stat().st_size else None,
    )


def _readable(name: str, value: str) -> str:
    if not value:
        return f"{name}: config's"
    if name == "variable":
        return "+".join(lookup(part).short_name for part in value.split("+"))
    if name == "lead_hours":
        return f"{value} h"
    return value if name == "task" else f"{name.rsplit('.', 1)[-1]} {value}"
