"""`climax-hpc bench kernels` on small sizes: rows of the agreed form, no speed for a wrong result, bad keys refused."""

import csv
import json
from pathlib import Path

import pytest
import torch

from climax_hpc.bench import kernels as bench
from climax_hpc.cli import main
from climax_hpc.kernels.benchmarking import inspect
from climax_hpc.kernels.lat_weighted_loss import bench as loss_bench
from climax_hpc.kernels.variable_aggregation import bench as aggregation_bench
from climax_hpc.kernels.variable_aggregation.bench import Size
from climax_hpc.model.config import ModelConfig

KEYS = {"case", "metric", "against", "ours", "baseline", "ratio", "unit"}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every case at a size that runs in an instant, but with more than one chunk's worth of variety."""
    sizes = {name: Size(V=5, H=16, W=32, p=4, D=32, N=2) for name in aggregation_bench.SIZES}
    for name, size in sizes.items():
        monkeypatch.setitem(aggregation_bench.SIZES, name, size)
    monkeypatch.setattr(aggregation_bench, "SLOPE_TEXTBOOK", 7)
    monkeypatch.setattr(aggregation_bench, "SLOPE_OURS", 9)
    for key, value in {"NUM_OUT": 3, "H": 8, "W": 16}.items():
        monkeypatch.setattr(loss_bench, key, value)
    config = ModelConfig(height=8, width=16, embed_dim=32, heads=2, depth=1, dropout=0, drop_path=0)
    for name in bench.STEPS:
        monkeypatch.setitem(bench.STEPS, name, config)


def test_rows_of_every_case(small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, table = tmp_path / "rows.json", tmp_path / "rows.csv"
    main(["bench", "kernels", "--json", str(out), "--csv", str(table), "--repeats", "1"])
    rows = json.loads(out.read_text())
    assert {row["case"].removesuffix("_bf16") for row in rows} == set(bench.CASES)
    assert {row["metric"] for row in rows} == {"time", "saved_bytes", "peak_bytes"}
    assert {row["against"] for row in rows} == {"textbook", "unfused", "roofline", "input", "float32"}
    for row in rows:
        assert row.keys() >= KEYS
        assert row["ratio"] == row["baseline"] / row["ours"]
    assert len(list(csv.DictReader(table.open()))) == len(rows)
    assert "| front_end_32x64 | time | textbook |" in capsys.readouterr().out


def test_no_speed_for_a_wrong_result(
    small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = aggregation_bench.aggregate_variables
    monkeypatch.setattr(aggregation_bench, "aggregate_variables", lambda *arguments: right(*arguments) * 1.001)
    with pytest.raises(SystemExit) as stop:
        main(["bench", "kernels", "--cases", "[front_end_32x64]"])
    assert stop.value.code == 2
    text = capsys.readouterr()
    assert "no speed is shown" in text.err
    assert "front_end" not in text.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "bench what? use climax-hpc bench kernels"),
        (["wings"], "unknown verb 'bench wings'"),
        (["kernels", "--cases", "[front_end]"], "front_end unknown; use some of front_end_32x64"),
        (["kernels", "--repeats", "0"], "must be at least 1"),
        (["kernels", "--threads", "0"], "must be at least 1"),
        (["kernels", "--json", "/nowhere/rows.json"], "json: /nowhere/rows.json lies in no existing folder"),
        (["kernels", "--csv", "/tmp"], "csv: /tmp is a folder"),
    ],
)
def test_refusals(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_inspection_counts_saved_and_peak_bytes() -> None:
    """exp keeps its output; the backward pass holds that, the incoming gradient and the new one."""
    x = torch.zeros(1000, 1000, requires_grad=True)
    found = inspect(lambda: x.exp(), [x], torch.ones(1000, 1000))
    assert found.saved_bytes == x.nbytes
    assert 2 * x.nbytes <= found.peak_bytes < 2.1 * x.nbytes
