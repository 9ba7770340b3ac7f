"""`climax-hpc bench record`: collects benchmark rows in one dated file of this machine, for benchmarks/.

{schema, date, machine: {device, processor, cores, memory_gb, python, packages}, git_commit, rows}
"""

import os
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from climax_hpc.config.paths import ConfigPath
from climax_hpc.config.training import require
from climax_hpc.errors import UserError
from climax_hpc.kernels.benchmarking import device_name
from climax_hpc.utils.atomic import write_together
from climax_hpc.utils.files import json_writer, make_folder, read_json, text_writer
from climax_hpc.utils.names import check_utf8
from climax_hpc.utils.provenance import provenance
from climax_hpc.utils.typed_json import Number, typed

SCHEMA = "climax_hpc/benchmarks"
TABLE_END = "<!-- files: end -->"
"""Ends the table of files in the folder's README.md, which gets a row for each recorded file."""
_FIX = "write it with climax-hpc bench … --json, or with bench record"


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


@dataclass(frozen=True, kw_only=True)
class _StoredRow:
    """A row as it is stored: {name, value, unit}, or {case, metric, against, ours, ratio, unit}, and more keys."""

    unit: str
    name: str | None = None
    value: Number | None = None
    case: str | None = None
    metric: str | None = None
    against: str | None = None
    ours: Number | None = None
    ratio: Number | None = None

    def __post_init__(self) -> None:
        if self.name is None and None in (self.case, self.metric, self.against):
            raise ValueError("neither name nor case, metric and against")
        if self.value is None and self.ours is None:
            raise ValueError("neither value nor ours")


@dataclass(frozen=True, kw_only=True)
class _StoredMachine:
    device: str | None = None


@dataclass(frozen=True, kw_only=True)
class BenchmarkFile:
    """What a file of `bench record` holds beside its rows; the files of single benchmarks lack it."""

    machine: _StoredMachine = _StoredMachine()
    device: str | None = None
    date: str | None = None
    git_commit: str | None = None


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
        write_together({path: json_writer(content)} | _table_with(folder / "README.md", path.name, row))
    except OSError as error:
        raise UserError(f"folder: cannot write {path} ({error.strerror}); choose another with --folder") from None
    print(f"{path}: {len(rows)} rows of {device}")
    return path


def _table_with(readme: Path, name: str, row: str) -> dict[Path, Callable[[Path], None]]:
    """The writer of a README whose table of files has this row, instead of one of the same file; none without table."""
    text = readme.read_text(encoding="utf-8", errors="surrogateescape") if readme.is_file() else ""
    if TABLE_END not in text:
        return {}
    check_utf8(text, str(readme))
    kept = "\n".join(line for line in text.split("\n") if not line.startswith(f"| `{name}` |"))
    return {readme: text_writer(kept.replace(TABLE_END, f"{row}\n{TABLE_END}"))}


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file from a benchmark or from `bench record`.

    Raises:
        UserError: unreadable, it holds none, or one that lacks its name, value or unit.
    """
    return _read(path)[0]


def read_head(path: Path) -> BenchmarkFile:
    """What a file of `bench record` holds beside its rows.

    Raises:
        UserError: as `read_rows`.
    """
    return _read(path)[1]


def _read(path: Path) -> tuple[list[dict[str, Any]], BenchmarkFile]:
    content = read_json(path, "rows that climax-hpc bench wrote")
    head = content if isinstance(content, dict) else {}
    rows = head.get("rows") if head else content
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path} holds no rows; {_FIX}")
    typed(rows, list[_StoredRow], str(path), _FIX, extra="ignore")
    return rows, typed(head, BenchmarkFile, str(path), _FIX, extra="ignore")


def _device(kind: str) -> str:
    """Model of the GPU or CPU, without the number of threads, which each row has."""
    return device_name(torch.device(kind)).split(",")[0]


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
