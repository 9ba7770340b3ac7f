"""Output of every benchmark suite: a table while it runs, and its rows as JSON and CSV.

A row is {case, metric, against, ours, baseline, ratio, unit}, where ratio > 1 means that ours is better, plus further
COLUMNS that the suite measures.
"""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from climax_hpc.config.paths import ConfigPath
from climax_hpc.config.training import require
from climax_hpc.errors import UserError
from climax_hpc.kernels.benchmarking import Row
from climax_hpc.utils.files import write_json, write_text

COLUMNS = (
    "case", "metric", "against", "ours", "baseline", "ratio", "unit",
    "ours_p20", "ours_p80", "device", "copy_share", "matrix_share",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """Output files of a benchmark, in addition to the printed table."""

    json: ConfigPath | None = None
    """File for the rows as JSON; null: none."""
    csv: ConfigPath | None = None
    """File for the rows as CSV; null: none."""

    def __post_init__(self) -> None:
        for key in ("json", "csv"):
            path = getattr(self, key)
            require(
                path is None or Path(path).parent.is_dir(), f"{key}: the folder of {path} does not exist; create it"
            )
            require(path is None or not Path(path).is_dir(), f"{key}: {path} is a folder; give a file")


class ResultTable:
    """Collects rows: each `add` prints them and rewrites the files, so that an interrupted benchmark keeps them."""

    def __init__(self, config: OutputConfig) -> None:
        self.rows: list[dict[str, Any]] = []
        self._config = config
        print("| case | metric | against | ours | baseline | ratio |\n|---|---|---|---|---|---|", flush=True)

    def add(self, rows: Iterable[Row]) -> None:
        """Print and keep these rows.

        Raises:
            UserError: a file cannot be written.
        """
        self.add_measured([row.to_dict() for row in rows])

    def add_measured(self, found: list[dict[str, Any]]) -> None:
        """Add rows in the form of the JSON file."""
        if not found:
            return
        print("\n".join(line(row) for row in found), flush=True)
        self.rows += found
        try:
            if self._config.json:
                write_json(Path(self._config.json), self.rows)
            if self._config.csv:
                write_text(Path(self._config.csv), as_csv(self.rows))
        except OSError as error:
            raise UserError(f"cannot write {error.filename} ({error.strerror}); choose another file") from None


def line(row: dict[str, Any]) -> str:
    """One row of the printed table."""
    numbers = (quantity(row[key], row["unit"]) for key in ("ours", "baseline"))
    return f"| {' | '.join((row['case'], row['metric'], row['against'], *numbers, format(row['ratio'], '.2f')))} |"


def quantity(value: float, unit: str) -> str:
    """A number in readable units: bytes in MiB, times below a second in ms."""
    if unit == "B":
        return f"{value / 2**20:.2f} MiB"
    if unit.split("/")[0] == "s" and abs(value) < 1:
        return f"{value * 1e3:.2f} m{unit}"
    return f"{value:.4g} {unit}"


def as_csv(rows: list[dict[str, Any]]) -> str:
    """The rows as CSV with COLUMNS; missing values are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
