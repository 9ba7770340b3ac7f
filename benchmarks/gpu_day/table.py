"""A result as Markdown: stages, correctness, then every measured row beside its prediction and its limit.

python -m benchmarks.gpu_day.table benchmarks/h100-2026-11-26.json
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PREDICTIONS = Path(__file__).parents[1] / "predictions-h100.json"


def markdown(result: dict[str, Any], predictions: dict[str, Any]) -> str:
    """Tables of a result of `python -m benchmarks.gpu_day`, beside what was predicted before."""
    rows, versions = result["rows"], result.get("versions", {})
    software = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines = [f"{result.get('device')}, {result.get('date')}, {software}", ""]
    lines += table(
        ("stage", "outcome", "seconds"), ([s["stage"], s["outcome"], s["seconds"]] for s in result["stages"])
    )
    checks = [r for r in rows if r["name"].startswith(("correct/", "same_bits/", "kernel_tests/"))]
    lines += table(("check", "value"), ([r["name"], f"{r['value']:g}"] for r in checks))
    measured = [r for r in rows if r not in checks and not r["name"].startswith(("error/", "kernel/"))]
    predicted = {row["name"]: row["value"] for row in predictions["rows"]}
    lines += table(("row", "predicted", "measured", "limit", "share"), (cells(r, predicted) for r in measured))
    return "\n".join(lines)


def cells(row: dict[str, Any], predicted: dict[str, float]) -> list[str]:
    """Name, predicted value, value, limit, and limit / value."""
    limit = row.get("limit")
    share = limit / row["value"] if limit else row.get("flop_share")
    return [
        row["name"], quantity(predicted[row["name"]], row["unit"]) if row["name"] in predicted else "",
        quantity(row["value"], row["unit"]), quantity(limit, row["unit"]) if limit else "",
        f"{share:.2f}" if share else "",
    ]  # fmt: skip


def quantity(value: float, unit: str) -> str:
    """A number in the unit that people read."""
    if unit == "s" and value < 1:
        return f"{value * 1e6:.1f} µs" if value < 1e-2 else f"{value * 1e3:.2f} ms"
    for prefix, factor in (("T", 1e12), ("G", 1e9)):
        if unit in ("B", "B/s", "FLOP/s") and value >= factor:
            return f"{value / factor:.2f} {prefix}{unit}"
    return f"{value:.4g} {unit}"


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """Lines of one Markdown table."""
    head = list(head)
    body = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *body, ""]


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text()), json.loads(PREDICTIONS.read_text())))
