"""Keys of the benchmarks that are refused before anything runs."""

from pathlib import Path

import pytest

from .refusals import refusal


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "missing suite: use climax-hpc bench kernels"),
        (["wings"], "unknown command 'bench wings'"),
        (["kernels", "--cases", "[front_end]"], "front_end unknown; use some of front_end_32x64"),
        (["kernels", "--repeats", "0"], "must be at least 1"),
        (["kernels", "--variables", "[1]"], "variables: [1] must be at least 2"),
        (["kernels", "--grids", "[2.5]"], "grids: [2.5] unknown; use some of [5.625, 1.40625, 0.25]"),
        (["kernels", "--budget_seconds", "0"], "budget_seconds = 0: must be positive"),
        (["kernels", "--threads", "0"], "must be at least 1"),
        (["kernels", "--json", "nowhere/rows.json"], "json: the folder of nowhere/rows.json does not exist"),
        (["kernels", "--csv", "."], "csv: . is a folder"),
        (["data", "--cases", "[loader]"], "cases: loader unknown; use some of loader_32x64"),
        (["data", "--repeats", "0"], "repeats = 0: must be at least 1"),
        (["step", "--cases", "[train]"], "train unknown; use some of train_2ranks"),
        (["step", "--embed_dim", "30"], "model.embed_dim = 30"),
        (["step", "--repeats", "0"], "must be at least 1"),
        (["step", "--zero_stage", "4"], "use 0, 1, 2 or 3"),
        (["step", "--json", "nowhere/rows.json"], "the folder of nowhere/rows.json does not exist"),
    ],
)
def test_refused_keys(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refusal(capsys, *arguments)
    assert not list(tmp_path.iterdir())
