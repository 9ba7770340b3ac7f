"""Rows of one stage: a flat list of {name, value, unit, …}, written to the stage's file at every addition."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Record:
    """What a stage has measured so far; a stage that is killed leaves the rows it had."""

    def __init__(self, folder: Path, stage: str, rehearsal: bool = False) -> None:
        self.folder, self.stage, self.rehearsal = folder, stage, rehearsal
        self.rows: list[Row] = []
        self.header: dict[str, Any] = {}

    def add(self, name: str, value: float, unit: str, *, of: Sequence[str] = (), **more: Any) -> None:
        """Keep and print one row; `more` are further fields, left out where None.

        Args:
            value: stored as null where it is no finite number, which JSON does not have.
            of: the kernels that the figure rests on; it is withheld where one of them is wrong.
        """
        row = {"name": name, "value": value if math.isfinite(value) else None, "unit": unit, "stage": self.stage}
        row |= {key: field for key, field in more.items() if field is not None}
        row |= {"of": list(of)} if of else {}
        self.rows.append(row)
        print(f"{name}: {value:.6g} {unit} {({k: v for k, v in more.items() if v is not None}) or ''}", flush=True)
        self.save()

    def check(self, name: str, passed: bool, *, of: Sequence[str] = (), **more: Any) -> bool:
        """Keep the row `correct/NAME`, 1 or 0; returns `passed`."""
        self.add(f"correct/{name}", float(passed), "1", of=of, **more)
        return passed

    def save(self) -> None:
        """Write header and rows."""
        target = self.folder / f"{self.stage}.json"
        partial = target.with_suffix(".partial")
        partial.write_text(json.dumps({"header": self.header, "rows": self.rows}, allow_nan=False))
        partial.replace(target)

    def read(self, stage: str) -> list[Row]:
        """The rows that another stage has written so far."""
        path = self.folder / f"{stage}.json"
        rows: list[Row] = json.loads(path.read_text())["rows"] if path.is_file() else []
        return rows

    def value(self, stage: str, name: str) -> float | None:
        """A value that an earlier stage has measured; None where it has not."""
        return next((float(row["value"]) for row in self.read(stage) if row["name"] == name), None)

    def limit(self, flop: float, nbytes: float) -> float | None:
        """Least seconds of this work by the copy bandwidth and the bfloat16 matrix rate measured before."""
        rate, bandwidth = self.value("ceilings", "bf16_matrix_rate"), self.value("ceilings", "copy_bandwidth")
        return max(flop / rate, nbytes / bandwidth) if rate and bandwidth else None
