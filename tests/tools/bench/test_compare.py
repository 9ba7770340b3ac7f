"""`bench command`, `bench record` and `bench compare`: rows to a dated file, comparison of two files, bad input."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from climax_hpc.cli import run
from climax_hpc.errors import UserError
from climax_hpc.tools.bench.compare import CompareConfig, change, compare
from climax_hpc.tools.bench.record import TABLE_END, RecordConfig, read_rows, record

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def row(ours: float, *, case: str = "step", unit: str = "s", **more: Any) -> dict[str, Any]:
    """A row as `bench` writes it, against a baseline of 8."""
    ratio = ours / 8 if unit.endswith("/s") else 8 / ours
    names = {"case": case, "metric": "time", "against": "textbook"}
    return names | {"ours": ours, "baseline": 8.0, "ratio": ratio, "unit": unit} | more


def write(path: Path, *rows: dict[str, Any]) -> str:
    """The rows as a JSON file."""
    path.write_text(json.dumps(rows))
    return str(path)


def test_a_command_is_timed_recorded_and_compared(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = str(tmp_path / "rows.json")
    words = f"{sys.executable} -c 'print(6 * 7)'"
    run(["bench", "command", words, "--limit_seconds", "60", "--json", rows])
    assert "42" in capfd.readouterr().out
    (only,) = json.loads(Path(rows).read_text())
    assert (only["case"], only["metric"], only["against"], only["unit"]) == (words, "time", "limit", "s")
    assert 0 < only["ours"] < 60
    assert only["ratio"] == 60 / only["ours"]
    run(["bench", "record", "--rows", json.dumps([rows, rows]), "--folder", str(tmp_path / "b"), "--name", "here"])
    file = tmp_path / "b" / f"here-{datetime.now(UTC).date()}.json"
    content = json.loads(file.read_text())
    assert content["rows"] == [only, only]
    assert content["machine"]["cores"] >= 1
    assert "threads" not in content["machine"]["device"]
    capfd.readouterr()
    run(["bench", "compare", rows, str(file), "--fail_below", "0.99"])
    out = capfd.readouterr().out
    assert "1.00 |  |" in out
    assert "1 rows, 0 below 0.99" in out
    assert f"{file}: {content['machine']['device']}, {content['date']}" in out


def test_name_of_the_file_is_the_device(tmp_path: Path) -> None:
    path = record(RecordConfig(rows=[write(tmp_path / "a.json", row(1.0))], folder=str(tmp_path)))
    assert path.name == path.name.lower()
    assert path.stem.endswith(str(datetime.now(UTC).date()))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz, 2 threads", "intel-r-xeon-r-platinum-8481c-cpu-2-70ghz"),
        ("AMD EPYC 9B14, 1 thread", "amd-epyc-9b14"),
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3"),
    ],
)
def test_one_file_per_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, file: str) -> None:
    monkeypatch.setattr("climax_hpc.tools.bench.record.device_name", lambda _: name)
    path = record(RecordConfig(rows=[write(tmp_path / "a.json", row(1.0))], folder=str(tmp_path)))
    assert path.name == f"{file}-{datetime.now(UTC).date()}.json"
    assert json.loads(path.read_text())["machine"]["device"] == name.split(",")[0]


def test_a_recorded_file_is_listed_once(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"| file |\n|---|\n| `old.json` |\n{TABLE_END}\nMore.\n")
    rows = [write(tmp_path / "a.json", row(1.0))]
    for _ in range(2):
        path = record(RecordConfig(rows=rows, folder=str(tmp_path), name="here"))
    lines = (tmp_path / "README.md").read_text().splitlines()
    assert lines[:3] == ["| file |", "|---|", "| `old.json` |"]
    assert lines[3].startswith(f"| `{path.name}` | ")
    assert " cores | 1 rows of commit " in lines[3]
    assert lines[4:] == [TABLE_END, "More."]


def test_what_became_worse_is_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = write(tmp_path / "a.json", row(4.0), row(4.0, case="rate", unit="samples/s"), row(1.0, case="old"))
    after = write(tmp_path / "b.json", row(5.0), row(8.0, case="rate", unit="samples/s"), row(1.0, case="new"))
    compare(CompareConfig(before=before, after=after))
    lines = capsys.readouterr().out.splitlines()
    assert "| step, time against textbook | 4 s | 5 s | 0.80 | worse |" in lines
    assert "| rate, time against textbook | 4 samples/s | 8 samples/s | 2.00 |  |" in lines
    assert f"only in {before}: old, time against textbook" in lines
    assert f"only in {after}: new, time against textbook" in lines
    with pytest.raises(SystemExit) as stop:
        compare(CompareConfig(before=before, after=after, fail_below=0.9))
    assert stop.value.code == 1
    compare(CompareConfig(before=before, after=after, fail_below=0.75))


def test_ratios_are_compared_for_another_machine() -> None:
    slow = change("x", row(4.0), row(8.0) | {"ratio": 4.0}, "ratio")
    assert (slow.before, slow.after, slow.factor) == ("2.00", "4.00", 2.0)
    assert change("x", row(4.0), row(8.0), "ours").factor == 0.5
    zero = {"name": "errors", "value": 0.0, "unit": ""}
    assert change("x", zero, zero, "ours").factor == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "a.json", "none.json"], r"none\.json"),
        (["compare", "a.json", "empty.json"], "empty.json holds no rows; write it with"),
        (["compare", "a.json", "other.json"], "have no row in common; compare files of the same benchmarks"),
        (["compare", "a.json", "a.json", "--fail_below=0"], "fail_below must be positive"),
        (["record", "--rows=[]"], "rows is empty; give the files"),
        (["record", "--rows=[a.json]", "--name=a/b"], "name: 'a/b': use letters, digits and dashes"),
        (["command", " ", "--limit_seconds=1"], "command is empty"),
        (["command", "true", "--limit_seconds=0"], "limit_seconds must be positive"),
        (["command", "false", "--limit_seconds=1"], "'false' ended with exit status 1; its time is not recorded"),
        (["command", "no-such-program", "--limit_seconds=1"], "cannot run 'no-such-program'"),
    ],
)
def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("a.json"), row(1.0))
    write(Path("other.json"), row(1.0, case="other"))
    write(Path("empty.json"))
    with pytest.raises(UserError, match=message):
        run(["bench", *arguments])


def test_every_recorded_file_is_readable_and_in_the_readme() -> None:
    readme = (BENCHMARKS / "README.md").read_text()
    for path in BENCHMARKS.glob("*.json"):
        assert read_rows(path)
        assert f"`{path.name}`" in readme, f"benchmarks/README.md does not name {path.name}"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([{"x": 1, "unit": "s"}], r"\[0\]: neither name nor case, metric and against"),
        ([row(1.0), {"name": "a", "unit": "s"}], r"\[1\]: neither value nor ours"),
        ([{"name": "a", "value": 1}], r"\[0\].unit is missing"),
        ([{"name": ["a"], "value": 1, "unit": "s"}], r"\[0\].name is"),
        ([{"name": "a", "value": "1", "unit": "s"}], r"\[0\].value is"),
        ([row(1.0) | {"ratio": float("nan")}], r"\[0\].ratio is NaN"),
        ({"rows": [row(1.0)], "machine": []}, "machine is"),
    ],
)
def test_damaged_rows_are_refused(content: Any, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"a.json: is damaged \({reason}.*; write it with"):
        compare(CompareConfig(before=str(path), after=str(path)))


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.json")), ids=lambda path: path.name)
def test_stored_files_are_read(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "rows" in json.loads(path.read_text()):
        compare(CompareConfig(before=str(path), after=str(path)))
        assert "0 below" in capsys.readouterr().out
