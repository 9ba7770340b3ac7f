"""`climax-hpc bench data` on a small source: rows of the loader, no speed for a wrong result."""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from climax_hpc.cli import main
from climax_hpc.kernels.benchmarking import WrongResult, interleaved, time_rows
from climax_hpc.tools.bench import data_bands, data_loader, page_cache

from .refusals import refusal

MEMORY = Path("/dev/shm")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every loader case with 80 steps on 8 × 16 cells."""
    for case, size in data_loader.CASES.items():
        tiny = replace(size, rows=8, shards=2, steps=40, micro_batch_size=2, micro_batches=4, buffer=4)
        monkeypatch.setitem(data_loader.CASES, case, tiny)


@pytest.mark.slow
def test_rows_of_the_loader(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    main(["bench", "data", "--cases", "[loader_32x64]", "--repeats", "1", "--json", str(out)])
    rows = json.loads(out.read_text())
    assert {row["against"] for row in rows if row["metric"] == "time"} == {
        "preadv", "preadv_one_buffer", "h5py", "four_threads",
    }  # fmt: skip
    rates = {(row["metric"], row["against"]) for row in rows if row["metric"] != "time"}
    forms = ("samples_per_s", "samples_per_s_batches", "samples_per_s_preadv")
    baselines = ("research", "research_tuned", "research_lean")
    assert rates == {(metric, against) for metric in forms for against in baselines}
    for row in rows:
        better = row["ours"] / row["baseline"] if row["metric"] != "time" else row["baseline"] / row["ours"]
        assert row["ratio"] == better


@pytest.fixture
def small_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cases of parts of a step on 36 × 72 cells, with chunks that divide them like those at 0.25°."""
    monkeypatch.setattr(data_bands, "empty_page_cache", lambda paths: None)  # the folder may lie in memory
    for case, size in data_bands.CASES.items():
        chunks = ("1x18", "2x9") if size.channels is None else ("1x18",)
        monkeypatch.setitem(data_bands.CASES, case, replace(size, rows=36, chunks=chunks))


def test_rows_of_parts_count_the_bytes_that_were_read(small_bands: None) -> None:
    step = 100 * 36 * 72 * 2
    share = {"subset_0.25deg": {"bytes_1x18": 0.12}, "band_0.25deg": {"bytes_1x18": 0.5, "bytes_2x9": 0.25}}
    share |= {"region_0.25deg": {"bytes_1x18": 0.5, "bytes_2x9": 0.5}}  # Europe: rows 24 … 30, across two bands of 9
    for case, expected in share.items():
        rows = {row.metric: row for row in data_bands.rows_of(case, 1)}
        assert {row.against for row in rows.values()} == {"whole"}
        assert {metric for metric in rows if metric.startswith("time")} == {
            name.replace("bytes", form) for name in expected for form in ("time", "time_cold")
        }
        for metric, value in expected.items():
            assert rows[metric].baseline == step
            assert rows[metric].ours == value * step


def test_layouts_that_differ_give_no_figures(small_bands: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_bands.np, "array_equal", lambda *_: False)
    with pytest.raises(WrongResult, match="chunks 1x18 and one chunk per time step differ; no figures are shown"):
        data_bands.rows_of("subset_0.25deg", 1)


def test_no_speed_for_a_wrong_result(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right = data_loader.read_micro_batches

    def wrong(*arguments: Any, **options: Any) -> Iterator[tuple[int, Any, Any]]:
        for step, micro_batch, raw in right(*arguments, **options):
            yield step, micro_batch, SimpleNamespace(x_BTCHW=raw.x_BTCHW + 1, y_BCHW=raw.y_BCHW)

    monkeypatch.setattr(data_loader, "read_micro_batches", wrong)
    assert "the loader and h5py differ; no times are shown" in refusal(capsys, "data", "--cases", "[loader_32x64]")


@pytest.mark.skipif(not MEMORY.is_dir(), reason="no file system in memory")
def test_a_cold_cache_in_memory_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(MEMORY))
    monkeypatch.setattr(page_cache, "ATTEMPTS", 1)
    text = refusal(capsys, "data", "--cases", "[loader_32x64_cold]")
    assert "cannot be evicted from the page cache; set TMPDIR to a folder on a disk" in text


def test_forms_take_turns_and_the_first_rounds_do_not_count() -> None:
    turns: list[str] = []
    forms = {"ours": lambda: turns.append("a"), "theirs": lambda: turns.append("b")}
    seconds = interleaved(forms, 2, before=lambda: turns.append("-"), uncounted=1)
    assert turns == ["-", "a", "-", "b"] * 3
    assert {name: len(times) for name, times in seconds.items()} == {"ours": 2, "theirs": 2}
    (row,) = time_rows("case", {"ours": [1.0, 2.0, 6.0], "theirs": [3.0, 9.0, 4.0]})
    assert (row.against, row.ours, row.baseline) == ("theirs", 2.0, 4.0)
