"""`climax-hpc bench kernels` on small sizes: rows, figures, README tables, wrong results."""

import csv
import json
from functools import partial
from pathlib import Path

import pytest
import torch

import climax_hpc.kernels
from climax_hpc.cli import main
from climax_hpc.kernels import benchmarking
from climax_hpc.kernels.benchmarking import Row, Stopwatch, inspect
from climax_hpc.kernels.ensemble_crps import bench as crps_bench
from climax_hpc.kernels.lat_weighted_loss import bench as loss_bench
from climax_hpc.kernels.variable_aggregation import bench as aggregation_bench
from climax_hpc.kernels.variable_aggregation.bench import Size
from climax_hpc.model.config import ModelConfig
from climax_hpc.tools.bench import kernels as bench
from climax_hpc.tools.bench import model_steps, readme
from climax_hpc.tools.bench.output import OutputConfig, ResultTable, quantity

from .refusals import refusal

pytestmark = pytest.mark.slow

KEYS = {"case", "metric", "against", "ours", "baseline", "ratio", "unit"}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every case at a size that runs at once, but still in more than one chunk."""
    sizes = {name: Size(V=5, H=16, W=32, p=4, D=32, N=2) for name in aggregation_bench.SIZES}
    for name, size in sizes.items():
        monkeypatch.setitem(aggregation_bench.SIZES, name, size)
    monkeypatch.setattr(benchmarking, "PROCESSOR_COPY", 1 << 16)
    monkeypatch.setattr(benchmarking, "PROCESSOR_MATRIX", 64)
    monkeypatch.setattr(aggregation_bench, "slope_size", lambda V: Size(V=V, H=8, W=16, p=2, D=32, N=2))
    monkeypatch.setattr(bench, "Size", partial(Size, D=32, N=2))
    monkeypatch.setattr(aggregation_bench, "SLOPE_TEXTBOOK", 7)
    monkeypatch.setattr(aggregation_bench, "SLOPE_OURS", 9)
    for key, value in {"NUM_OUT": 3, "H": 8, "W": 16}.items():
        monkeypatch.setattr(loss_bench, key, value)
        monkeypatch.setattr(crps_bench, key, value)
    config = ModelConfig(
        variables=ModelConfig().variables[:5],
        height=8,
        width=16,
        embed_dim=32,
        heads=2,
        depth=1,
        dropout=0,
        drop_path=0,
    )
    for name in model_steps.STEPS:
        monkeypatch.setitem(model_steps.STEPS, name, config)


def bench_kernels(*arguments: object) -> None:
    sizes = ["--side_by_side", "false"]  # another process would not have the small sizes
    main(["bench", "kernels", "--repeats", "1", "--device", "cpu", *sizes, *map(str, arguments)])


def test_rows_of_every_case(small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, table, plots = tmp_path / "rows.json", tmp_path / "rows.csv", tmp_path / "new" / "plots"
    bench_kernels("--json", out, "--csv", table, "--plots", plots)
    rows = json.loads(out.read_text())
    slope = {f"front_end_8x16_v{V}" for V in (5, 7, 9)}
    assert {row["case"].removesuffix("_bf16") for row in rows} == {*bench.CASES, *slope}
    assert {row["metric"] for row in rows} == {"time", "saved_bytes", "peak_bytes"}
    assert {row["against"] for row in rows} == {"textbook", "unfused", "broadcast", "roofline", "input", "float32"}
    for row in rows:
        assert row.keys() >= KEYS | {"device"}
        assert row["ratio"] == row["baseline"] / row["ours"]
        if row["metric"] == "time" and row["case"] != "variable_slope":
            assert row["ours_p20"] <= row["ours"] <= row["ours_p80"]
        if row["against"] == "roofline":  # the nearer limit is the roofline
            assert max(row.get("copy_share", 0), row.get("matrix_share", 0)) == pytest.approx(row["ratio"])
    assert len(list(csv.DictReader(table.open()))) == len(rows)
    assert "| front_end_32x64 | time | textbook |" in capsys.readouterr().out
    for name in ("speed", "memory", "variables"):
        assert (plots / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_free_grid(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables × grids × batches instead of the fixed cases; forms that do not fit into memory are skipped."""
    monkeypatch.setattr(bench, "GRIDS", {5.625: (8, 16, 2), 0.25: (16, 32, 8)})
    out = tmp_path / "rows.json"
    bench_kernels("--json", out, "--variables", "[2, 3]", "--grids", "[5.625, 0.25]", "--batches", "[1]")
    rows = json.loads(out.read_text())
    assert {row["case"] for row in rows} == {f"front_end_{g}_v{V}_b1" for g in ("8x16", "16x32") for V in (2, 3)}
    monkeypatch.setattr(aggregation_bench, "MAX_SECONDS", 0.0)
    bench_kernels("--json", out, "--variables", "[3]", "--grids", "[5.625]", "--cases", "[loss_128x256]")
    rows = json.loads(out.read_text())
    assert {row["case"] for row in rows} == {"front_end_8x16_v3_b2", "loss_128x256"}
    assert {row["against"] for row in rows if row["case"].startswith("front")} == {"roofline", "input"}


def test_bfloat16_front_end(small: None, tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    bench_kernels("--json", out, "--dtype", "bfloat16", "--cases", "[front_end_32x64]")
    inputs = {row["against"]: row["baseline"] for row in json.loads(out.read_text()) if row["metric"] == "saved_bytes"}
    assert inputs["input"] == 2 * 5 * 16 * 32 * 2  # batch, variables, rows, columns, bytes


def test_a_spent_budget_leaves_cases_out_and_says_so(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.json"
    bench_kernels("--json", out, "--budget_seconds", 1e-9)
    assert not out.exists()
    assert f"skipped after budget_seconds = 1e-09 s: {', '.join(bench.CASES)}" in capsys.readouterr().out


def test_the_longest_case_runs_beside_the_others(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows of a case from another process (here a fast one) are merged in, or its error is raised."""
    monkeypatch.setattr(bench.os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(bench, "LONGEST", "loss_128x256")
    out = tmp_path / "rows.json"
    command = ["bench", "kernels", "--repeats", "1", "--device", "cpu", "--json", str(out)]
    main([*command, "--cases", "[loss_128x256, front_end_32x64]"])
    rows = json.loads(out.read_text())
    assert {row["case"] for row in rows} == {"loss_128x256", "front_end_32x64"}
    of_loss = {(row["metric"], row["against"]): row["baseline"] for row in rows if row["case"] == "loss_128x256"}
    assert of_loss["peak_bytes", "input"] == 2 * 48 * 128 * 256 * 4  # not the small size of this process
    assert "| loss_128x256 | time | textbook |" in capsys.readouterr().out
    monkeypatch.setattr(bench.sys, "executable", "/bin/false")
    with pytest.raises(SystemExit):
        main([*command, "--cases", "[loss_128x256, front_end_32x64]"])
    assert "the process of loss_128x256 ended without a message" in capsys.readouterr().err


def test_float32_on_a_gpu_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the textbook's convolutions would differ by 1e-3, and no speed would be shown."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    Stopwatch(device="cpu")
    assert torch.backends.cudnn.allow_tf32
    Stopwatch(device="cuda")
    assert not torch.backends.cudnn.allow_tf32


def test_runs_take_turns_until_their_time_is_up() -> None:
    turns: list[str] = []
    watch = Stopwatch(repeats=3)
    watch.times({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")})
    assert turns == ["a", "b"] * 3
    known = watch.times({"slow": lambda: pytest.fail("is not repeated")}, {"slow": 99.0})["slow"]
    assert known == (99.0, 99.0, 99.0)


def test_rates_are_better_where_they_are_higher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = ResultTable(OutputConfig(json=str(tmp_path / "rows.json")))
    table.add([Row(case="a", metric="rate", against="b", ours=3, baseline=2, unit="1/s", more_is_better=True)])
    assert table.rows == [
        {"case": "a", "metric": "rate", "against": "b", "ours": 3, "baseline": 2, "unit": "1/s", "ratio": 1.5}
    ]
    assert "| a | rate | b | 3 1/s | 2 1/s | 1.50 |" in capsys.readouterr().out
    assert quantity(2**21, "B") == "2.00 MiB"
    assert quantity(0.25, "s/variable") == "250.00 ms/variable"


def test_readme_tables(small: None, tmp_path: Path) -> None:
    """Tables are written between the markers, nothing else changes, and the READMEs have the markers."""
    out = tmp_path / "rows.json"
    bench_kernels("--json", out, "--cases", "[front_end_32x64, loss_128x256, step_32x64]")
    kernels = Path(climax_hpc.kernels.__path__[0])
    originals = {folder: (kernels / folder / "README.md").read_text() for folder in readme.FOLDERS}
    for folder, original in originals.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "README.md").write_text(original)
    readme.main([str(out), "--folder", str(tmp_path)])
    texts = {folder: (tmp_path / folder / "README.md").read_text() for folder in readme.FOLDERS}
    assert "| front end 32×64 | time | textbook |" in texts["variable_aggregation"]
    assert "| step 32×64, bf16 | time | float32 |" in texts["variable_aggregation"]
    assert "| loss 128×256 | peak bytes | input |" in texts["lat_weighted_loss"]
    assert "front end" not in texts["lat_weighted_loss"].split(readme.BEGIN)[1].split(readme.END)[0]
    for folder, text in texts.items():
        original = originals[folder]
        assert text.split(readme.BEGIN)[0] == original.split(readme.BEGIN)[0]
        assert text.split(readme.END)[1] == original.split(readme.END)[1]


def test_readme_refusals(tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    rows.write_text("[]")
    with pytest.raises(SystemExit, match="holds no rows; write it with climax-hpc bench kernels --json"):
        readme.main([str(rows)])
    with pytest.raises(SystemExit, match="does not exist: expected rows written by climax-hpc bench kernels"):
        readme.main([str(tmp_path / "none.json")])
    rows.write_text('[{"case": "a"}]')
    (tmp_path / "variable_aggregation").mkdir()
    (tmp_path / "variable_aggregation" / "README.md").write_text("no markers")
    with pytest.raises(SystemExit, match="has no <!-- measured: begin -->"):
        readme.main([str(rows), "--folder", str(tmp_path)])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device")
def test_on_a_gpu(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    cases = "[front_end_32x64, loss_128x256, ensemble_crps_128x256, evaluation_128x256]"
    main(["bench", "kernels", "--device", "cuda", "--json", str(out), "--cases", cases])
    rows = json.loads(out.read_text())
    assert {row["device"] for row in rows} == {torch.cuda.get_device_name()}
    assert all(0 < row["ratio"] < 1.1 for row in rows if row["against"] == "roofline")


def test_no_speed_for_a_wrong_result(
    small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = aggregation_bench.aggregate_variables
    monkeypatch.setattr(aggregation_bench, "aggregate_variables", lambda *arguments: right(*arguments) * 1.001)
    assert "no speed is shown" in refusal(capsys, "kernels", "--cases", "[front_end_32x64]")


def test_inspection_counts_saved_and_peak_bytes() -> None:
    """exp saves its output; the backward pass holds it, the incoming gradient and the new one."""
    x = torch.zeros(1000, 1000, requires_grad=True)
    found = inspect(lambda: x.exp(), [x], torch.ones(1000, 1000), watch=Stopwatch())
    assert found.saved_bytes == x.nbytes
    assert 2 * x.nbytes <= found.peak_bytes < 2.1 * x.nbytes
