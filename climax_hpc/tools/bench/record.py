"""`climax-hpc bench record`: collects benchmark rows in one dated file of this machine, for benchmarks/.

{schema, date, machine: {device, processor, cores, memory_gb, python, packages}, git_commit, rows}
"""

import os
import platform
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from climax_hpc.config.paths import ConfigPath
from climax_hpc.config.training import require
from climax_hpc.errors import UserError
from climax_hpc.kernels.benchmarking import device_name
from climax_hpc.utils.files import make_folder, read_json, write_json, write_text
from climax_hpc.utils.provenance import provenance

SCHEMA = "climax_hpc/benchmarks"
TABLE_END = "<!-- files: end -->"
"""Ends the table of files in the folder's README.md, which gets a row for each recorded file."""


@dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """`climax-hpc bench record`: collect the JSON files of benchmarks on this machine in one dated file."""

    rows: list[ConfigPath]
    """JSON files that `climax-hpc bench … --json` wrote."""
    folder: ConfigPath = "benchmarks"
    """Folder of the file NAME-YEAR-MONTH-DAY.json."""
    name: str | None = None
    """First part of the file name: letters, digits and dashes; null: the name of the device."""

    def __post_init__(self) -> None:
        require(bool(self.rows), "rows is empty; give the files that climax-hpc bench kernels, data or step wrote")
        require(
            self.name is None or bool(re.fullmatch(r"[\w-]+", self.name)),
            f"name: {self.name!r}: use letters, digits and dashes",
        )


def record(config: RecordConfig) -> Path:
    """Write the file, list it in the folder's README.md, and return its path; a file of the same day is replaced.

    Raises:
        UserError: a file without rows, or a folder that cannot be written.
    """
    rows = [row for path in config.rows for row in read_rows(Path(path))]
    folder = Path(config.folder)
    make_folder(folder, "folder")
    known = provenance(ranks=1, launcher="none", manifest_sha256="")
    processor = _device("cpu")
    device = _device("cuda") if torch.cuda.is_available() else processor
    date = datetime.now(UTC).date().isoformat()
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "date": date,
        "machine": {
            "device": device,
            "processor": processor,
            "cores": len(os.sched_getaffinity(0)),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
            "system": f"{platform.system()} {platform.machine()}",
            "python": known["python"],
            "packages": known["packages"],
        },
        "git_commit": known["git_commit"],
        "rows": rows,
    }
    path = folder / f"{config.name or _slug(device)}-{date}.json"
    cores = content["machine"]["cores"]
    row = f"| `{path.name}` | {device}, {cores} cores | {len(rows)} rows of commit {str(known['git_commit'])[:7]} |"
    try:
        write_json(path, content)
        _add_to_table(folder / "README.md", path.name, row)
    except OSError as error:
        raise UserError(f"folder: cannot write {path} ({error.strerror}); choose another with --folder") from None
    print(f"{path}: {len(rows)} rows of {device}")
    return path


def _add_to_table(readme: Path, name: str, row: str) -> None:
    """Add a row at the end of the table of files, or replace that of the same file."""
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    if TABLE_END in text:
        kept = "\n".join(line for line in text.split("\n") if not line.startswith(f"| `{name}` |"))
        write_text(readme, kept.replace(TABLE_END, f"{row}\n{TABLE_END}"))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file from a benchmark or from `bench record`.

    Raises:
        UserError: unreadable, or it holds none.
    """
    content = read_json(path, "rows that climax-hpc bench wrote")
    rows = content.get("rows") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} holds no rows; write it with climax-hpc bench … --json, or with bench record")
    return rows


def _device(kind: str) -> str:
    """Model of the GPU or CPU, without the number of threads, which each row has."""
    return device_name(torch.device(kind)).split(",")[0]


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
