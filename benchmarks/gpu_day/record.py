"""Rows of one stage: a flat list of {name, value, unit, …}, written to the stage's file at every addition."""

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Record:
    """What a stage has measured so far; a stage that is killed leaves the rows it had."""

    def __init__(self, folder: Path, stage: str, rehearsal: bool = False) -> None:
        self.folder, self.stage, self.rehearsal = folder, stage, rehearsal
        self.rows: list[Row] = []
        self.header: dict[str, Any] = {}

    def add(self, name: str, value: float, unit: str, **more: Any) -> None:
        """Keep and print one row; `more` are further fields, left out where None."""
        row = {"name": name, "value": value, "unit": unit, "stage": self.stage}
        row |= {key: field for key, field in more.items() if field is not None}
        self.rows.append(row)
        print(f"{name}: {value:.6g} {unit} {({k: v for k, v in more.items() if v is not None}) or ''}", flush=True)
        self.save()

    def save(self) -> None:
        """Write header and rows."""
        target = self.folder / f"{self.stage}.json"
        partial = target.with_suffix(".partial")
        partial.write_text(json.dumps({"header": self.header, "rows": self.rows}))
        partial.replace(target)

    def value(self, stage: str, name: str) -> float | None:
        """A value that an earlier stage has measured; None where it has not."""
        path = self.folder / f"{stage}.json"
        rows = json.loads(path.read_text())["rows"] if path.is_file() else []
        return next((float(row["value"]) for row in rows if row["name"] == name), None)

    def limit(self, flop: float, nbytes: float) -> float | None:
        """Least seconds of this work by the copy bandwidth and the bfloat16 matrix rate measured before."""
        rate, bandwidth = self.value("ceilings", "bf16_matrix_rate"), self.value("ceilings", "copy_bandwidth")
        return max(flop / rate, nbytes / bandwidth) if rate and bandwidth else None
