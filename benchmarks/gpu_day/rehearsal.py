"""What must hold after a rehearsal, read from the files that it left."""

import json
from pathlib import Path
from typing import Any

from benchmarks.gpu_day.schedule import PLANTED
from benchmarks.gpu_day.table import NOT_LISTED
from benchmarks.gpu_day.verdict import is_check

MOST_FILES, MOST_BYTES = 8, 16 << 20
"""What a lent machine hands back."""
OUTCOMES = {"planted_crash": "failed", "planted_hang": "timed out"}
MEASURED = (
    "copy_bandwidth", "aggregate/", "front_end/", "loss/", "evaluation/", "attention/", "tile/", "model_108m_32x64/",
    "engine_108m_32x64/", "pretrain/samples_per_second", "ncu/",
)  # fmt: skip
"""First parts of names of which a full rehearsal has figures."""


def problems(out: Path, names: list[str]) -> list[str]:
    """What is not as it should be, one line each; nothing where all is well.

    Args:
        names: the stages that were asked for.
    """
    try:
        result = json.loads((out / "gpu_day.json").read_text())
        table = (out / "gpu_day.md").read_text()
    except (OSError, ValueError) as error:
        return [f"no table or no JSON: {error}"]
    return [*_stages(result, table, names), *_rows(result, table, names), *_files(out)]


def _stages(result: dict[str, Any], table: str, names: list[str]) -> list[str]:
    found = {entry["stage"]: entry["outcome"] for entry in result["stages"]}
    expected = {name: OUTCOMES.get(name, "ok") for name in names}
    lines = [
        f"stage {name}: {found.get(name, 'not recorded')}, expected {outcome}"
        for name, outcome in expected.items()
        if found.get(name) != outcome
    ]
    return lines + [f"stage {name} is not in the table" for name in names if f"| {name} |" not in table]


def _rows(result: dict[str, Any], table: str, names: list[str]) -> list[str]:
    rows = result["rows"]
    wrong = {row["name"] for row in rows if is_check(row) and row["value"] != 1}
    lines = [f"{name} is 0" for name in sorted(wrong) if "planted_wrong" not in name]
    shown = {row["name"] for row in rows}
    listed = {name for name in shown if not name.startswith(NOT_LISTED)}
    lines += [f"{name} is not in the table" for name in sorted(listed) if f"| {name} |" not in table]
    if "planted_wrong" in names:
        if not any("planted_wrong" in name for name in wrong):
            lines.append("the planted wrong result was taken for right")
        fast = [row["name"] for row in rows if "planted_wrong" in row["name"] and row["unit"] == "s"]
        lines += [f"{name}: the planted wrong result has a speed" for name in fast]
        if not any("planted_wrong" in name for held in result["withheld"].values() for name in held):
            lines.append("no speed of the planted wrong result was withheld")
    kernels = [kernel for kernel in result["withheld"] if kernel not in ("planted_wrong", "crashing", "hanging")]
    lines += [f"figures of {kernel} were withheld" for kernel in kernels]
    if set(names) > set(PLANTED) and "ceilings" in names and "ncu" in names:
        lines += [f"no row {start}" for start in MEASURED if not any(name.startswith(start) for name in shown)]
    return lines


def _files(out: Path) -> list[str]:
    files = [path for path in out.rglob("*") if path.is_file()]
    large = [path.name for path in files if path.stat().st_size >= MOST_BYTES]
    many = [f"{len(files)} files, more than {MOST_FILES}"] if len(files) > MOST_FILES else []
    return many + [f"{name}: {MOST_BYTES >> 20} MiB or more" for name in large]
