"""Adds up what the fuzzers counted and prints the table of docs/developing/faults.md: `counts.py FOLDER [PAGE]`.

With PAGE the table there is replaced, between its two marks.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path

GOOD = ("same", "accepted", "told", "other input", "refused")
FAULTS = ("traceback", "silent", "slow", "half-written", "unclear", "crash")
TITLES = {
    "command_words": "words of the command line",
    "yaml_edits": "YAML configs",
    "json_edits": "manifests and other JSON files",
    "checkpoint_files": "checkpoints and SHA256SUMS",
    "netcdf_edits": "NetCDF files",
    "full_disk": "full disks, rights, limits",
    "races": "two processes, kill -9",
}
MARKS = ("<!-- counts: begin -->", "<!-- counts: end -->")


def table(folder: Path) -> str:
    """The counts of all fuzzers as Markdown."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in TITLES}
    slowest = dict.fromkeys(TITLES, 0.0)
    for path in sorted(folder.glob("*.json")):
        row = json.loads(path.read_text())
        counts[row["fuzzer"]] += Counter(row["counts"])
        slowest[row["fuzzer"]] = max(slowest[row["fuzzer"]], row["slowest_s"])
    total = sum(counts.values(), Counter())
    lines = [
        "| what is damaged | cases | " + " | ".join(GOOD) + " | faults | slowest [s] |",
        "|---|" + "---:|" * (len(GOOD) + 3),
        *(_row(TITLES[name], counts[name], slowest[name]) for name in TITLES),
        _row("**all**", total, max(slowest.values())),
        "",
        f"Faults: {', '.join(f'{total[kind]} {kind}' for kind in FAULTS)}.",
    ]
    return "\n".join(lines) + "\n"


def _row(title: str, counts: Counter[str], slowest: float) -> str:
    figures = [counts.total(), *(counts[kind] for kind in GOOD), sum(counts[kind] for kind in FAULTS)]
    return f"| {title} | {' | '.join(str(figure) for figure in figures)} | {slowest:.1f} |"


def main(folder: str, page: str | None = None) -> None:
    """Print the table, and write it into the page."""
    text = table(Path(folder))
    print(text, end="")
    if page:
        begin, end = MARKS
        content = re.sub(f"{begin}.*{end}", f"{begin}\n{text}{end}", Path(page).read_text(), flags=re.DOTALL)
        Path(page).write_text(content)


if __name__ == "__main__":
    main(*sys.argv[1:])
