"""A result as Markdown: stages, correctness, then every measured row beside its prediction and its limit.

python -m benchmarks.gpu_day.table benchmarks/h100-2026-11-26.json
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.gpu_day.verdict import CHECKS

PREDICTIONS = Path(__file__).parents[1] / "predictions-h100.json"
NOT_LISTED = ("error/", "kernel/")
"""First parts of the names of rows that only the JSON has: hundreds of them."""


def markdown(result: dict[str, Any], predictions: dict[str, Any]) -> str:
    """Tables of a result of `python -m benchmarks.gpu_day`, beside what was predicted before."""
    rows, versions = result["rows"], result.get("versions", {})
    software = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines = [f"{result.get('device')}, {result.get('date')}, {software}", ""]
    stages = ([s["stage"], s["outcome"], s["seconds"], cell(s.get("last_line", ""))] for s in result["stages"])
    lines += table(("stage", "outcome", "seconds", "last line"), stages)
    checks = [row for row in rows if row["name"].startswith((*CHECKS, "kernel_tests/"))]
    lines += table(("check", "value"), ([row["name"], quantity(row["value"], "")] for row in checks))
    if withheld := result.get("withheld"):
        held = ([kernel, len(names), cell(", ".join(names))] for kernel, names in withheld.items())
        lines += table(("not shown to be right", "figures withheld", "names"), held)
    measured = [row for row in rows if row not in checks and not row["name"].startswith(NOT_LISTED)]
    predicted = {row["name"]: row["value"] for row in predictions["rows"]}
    lines += [f"Predictions are for {predictions['device']}, of {predictions['date']}.", ""]
    lines += table(("row", "predicted", "measured", "limit", "share"), (cells(row, predicted) for row in measured))
    return "\n".join(lines)


def cells(row: dict[str, Any], predicted: dict[str, float]) -> list[str]:
    """Name, predicted value, value, limit, and limit / value."""
    value, unit, limit = row["value"], row["unit"], row.get("limit")
    share = limit / value if limit and value else row.get("flop_share")
    return [
        row["name"], quantity(predicted[row["name"]], unit) if row["name"] in predicted else "",
        quantity(value, unit), quantity(limit, unit) if limit else "", f"{share:.2f}" if share else "",
    ]  # fmt: skip


def quantity(value: float | None, unit: str) -> str:
    """A number in the unit that people read."""
    if value is None:
        return "not finite"
    if unit == "s" and 0 < value < 1:
        return f"{value * 1e6:.1f} µs" if value < 1e-2 else f"{value * 1e3:.2f} ms"
    for prefix, factor in (("T", 1e12), ("G", 1e9)):
        if unit in ("B", "B/s", "FLOP/s") and value >= factor:
            return f"{value / factor:.2f} {prefix}{unit}"
    return f"{value:.4g} {unit}".strip()


def cell(text: str) -> str:
    """Text that ends no cell and no row."""
    return text.replace("|", "¦").replace("\n", " ")


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """Lines of one Markdown table."""
    head = list(head)
    body = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *body, ""]


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text()), json.loads(PREDICTIONS.read_text())))
