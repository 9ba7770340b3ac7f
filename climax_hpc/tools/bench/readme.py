"""Writes the measured tables of the kernel READMEs, between their markers, from the rows of `bench kernels`.

climax-hpc bench kernels --json runs/kernels.json && python -m climax_hpc.tools.bench.readme runs/kernels.json
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import climax_hpc.kernels
from climax_hpc.errors import UserError
from climax_hpc.tools.bench.output import quantity
from climax_hpc.tools.bench.plots import label
from climax_hpc.utils.files import read_json, write_text

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
FOLDERS = {
    "variable_aggregation": ("front_end", "step", "variable_slope"),
    "lat_weighted_loss": ("loss",),
    "ensemble_crps": ("ensemble_crps",),
    "verification_sums": ("evaluation",),
}
"""Folder of a README -> prefixes of the cases in its table."""
LIMITS = ("copy", "matrix")
TARGETS = {
    ("front_end_32x64", "time", "textbook"): 55,
    ("front_end_128x256", "time", "textbook"): 45,
    ("front_end_128x256", "saved_bytes", "textbook"): 60,
    ("step_32x64", "time", "textbook"): 2.0,
    ("step_128x256", "time", "textbook"): 2.2,
    ("step_32x64_bf16", "time", "float32"): 1,
    ("step_128x256_bf16", "time", "float32"): 1,
    ("front_end_720x1440", "peak_bytes", "input"): 1 / 3,
    ("variable_slope", "time", "textbook"): 40,
    ("loss_128x256", "time", "textbook"): 2.5,
    ("loss_128x256", "peak_bytes", "input"): 1 / 1.2,
    ("ensemble_crps_128x256", "time", "broadcast"): 3,
    ("ensemble_crps_128x256", "saved_bytes", "input"): 1,
}
"""Required minimum ratios on a CPU."""


def table(rows: Sequence[dict[str, Any]], starts: Sequence[str]) -> str:
    """Markdown table of the rows of these cases, with the required minimum ratio."""
    lines = [
        "| case | metric | against | ours (p20 … p80) | baseline | ratio | required | fraction of machine limit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if not row["case"].startswith(tuple(starts)) or "_v" in row["case"].removeprefix("variable"):
            continue
        target = TARGETS.get((row["case"], row["metric"], row["against"]))
        cells = (
            label(row["case"]), row["metric"].replace("_", " "), row["against"], _ours(row),
            quantity(row["baseline"], row["unit"]), f"{row['ratio']:.3g}", f"{target:.3g}" if target else "",
            ", ".join(f"{limit} {100 * row[f'{limit}_share']:.0f} %" for limit in LIMITS if f"{limit}_share" in row),
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _ours(row: dict[str, Any]) -> str:
    text = quantity(row["ours"], row["unit"])
    if "ours_p20" in row:
        scale = 1e3 if row["ours"] < 1 else 1  # same unit as the median from `quantity`
        text += f" ({scale * row['ours_p20']:.2f} … {scale * row['ours_p80']:.2f})"
    return text


def rewrite(readme: Path, measured: str) -> None:
    """Write a text between the markers of a README.

    Raises:
        UserError: the markers are missing.
    """
    text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{readme} has no {BEGIN} … {END}; add these lines where the table belongs")
    write_text(readme, f"{before}{begin}\n{measured}\n{end}{after}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m climax_hpc.tools.bench.readme`."""
    parser = argparse.ArgumentParser(prog="python -m climax_hpc.tools.bench.readme", description=__doc__.split("\n")[0])
    parser.add_argument("rows", type=Path, help="JSON file that `climax-hpc bench kernels --json` wrote")
    parser.add_argument(
        "--folder", type=Path, default=Path(climax_hpc.kernels.__path__[0]), help="folder of the kernels"
    )
    options = parser.parse_args(arguments)
    try:
        rows = read_json(options.rows, "rows written by climax-hpc bench kernels --json")
        if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and "case" in row for row in rows):
            raise UserError(f"{options.rows} holds no rows; write it with climax-hpc bench kernels --json")
        devices = "; ".join(dict.fromkeys(row["device"] for row in rows if "device" in row))
        for folder, starts in FOLDERS.items():
            rewrite(options.folder / folder / "README.md", f"On {devices}:\n\n{table(rows, starts)}")
    except UserError as error:
        sys.exit(f"climax_hpc.tools.bench.readme: error: {error}")


if __name__ == "__main__":
    main()
