"""More than a thousand faults of servers under packs of stores at URLs: the same shards as from disk, or one line.

`pytest -q -s -m faults tests/faults/test_store_faults.py` prints the counts of docs/developing/faults.md.
"""

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.errors import UserError

from ..data_prep.stores.content import content
from ..data_prep.stores.faulty_server import FINAL, FLIPPED, TRANSIENT, Faults, serving
from ..data_prep.stores.store_files import SETTINGS, write_references, write_zarr

STEPS = 24
MOST_FAULTS = 1000
LIMITS: dict[str, Any] = {"network_timeout_seconds": 1.0, "network_retry_seconds": 120.0}
CASES: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("v2.zarr", TRANSIENT, False),
    ("v3.zarr", TRANSIENT, False),
    ("references.json", TRANSIENT, False),
    ("v2.zarr", (*TRANSIENT, FLIPPED), True),
    ("v2.zarr", FINAL, False),
    ("v2.zarr", (*TRANSIENT, *FINAL), False),
)
"""Store, faults, ETags that are MD5s."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stores, and `disk`, a pack of one of them from the disk."""
    root = tmp_path_factory.mktemp("served")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_zarr(root / "v2.zarr", STEPS, consolidated=True)
        write_zarr(root / "v3.zarr", STEPS, zarr_format=3, checksums=True, consolidated=True)
    write_references(root / "references.json", root / "v2.zarr", ".")
    pack(PackConfig(input=str(root / "v2.zarr"), output=str(root / "disk"), **SETTINGS))
    return root


@pytest.mark.faults
def test_a_thousand_faults(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected, faults_of, ends = content(folder / "disk"), Counter[str](), Counter[tuple[str, str]]()
    silent = []
    seed = 0
    while faults_of.total() <= MOST_FAULTS:
        name, kinds, md5 = CASES[seed % len(CASES)]
        faults = Faults(kinds, 0.35 if FINAL[0] not in kinds else 0.02 * (1 + seed % 5), seed, after=seed % 40)
        with serving(folder, faults, md5=md5, stall_s=1.5) as server:
            url = f"{server.url}/{name}"
            end = _end_of(url, tmp_path / str(seed), expected)
        faults_of += faults.counts
        ends["faults that pass" if FINAL[0] not in kinds else "faults that last", end] += 1
        if end not in ("same", "refused"):
            silent.append(f"seed {seed}, {name}, {dict(faults.counts)}: {end}")
        seed += 1
    with capsys.disabled():
        print(f"\n{_table(faults_of, ends, seed)}")
    assert not silent, "\n".join(silent)
    assert faults_of.keys() == {*TRANSIENT, *FINAL, FLIPPED}


def _end_of(url: str, output: Path, expected: dict[str, Any]) -> str:
    """`same`, `refused` in one line that names the URL, or what went wrong."""
    try:
        pack(PackConfig(input=url, output=str(output), **(SETTINGS | LIMITS)))
    except UserError as error:
        line = str(error)
        return "refused" if url.rpartition("/")[0] in line and "\n" not in line else f"unclear: {line}"
    except Exception as error:
        return f"traceback: {error!r}"
    return "same" if content(output) == expected else "silent: other shards"


def _table(faults_of: Counter[str], ends: Counter[tuple[str, str]], packs: int) -> str:
    lines = ["| fault | injected |", "|---|---:|"]
    lines += [f"| {kind} | {count} |" for kind, count in sorted(faults_of.items())]
    lines += [
        f"| **all**, in {packs} packs | {faults_of.total()} |",
        "",
        "| packs under | end | count |",
        "|---|---|---:|",
    ]
    lines += [f"| {what} | {end} | {count} |" for (what, end), count in sorted(ends.items())]
    return "\n".join(lines)
