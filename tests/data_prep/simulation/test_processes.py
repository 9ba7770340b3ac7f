"""Commands that run side by side: what they print is passed on, and they import the files beside them."""

import sys
from pathlib import Path

import pytest

from climax_hpc.data_prep.simulation.processes import run_side_by_side


def test_a_command_imports_the_files_beside_it_under_a_safe_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beside.py").write_text("WORD = 'found'\n")
    (tmp_path / "command.py").write_text("import beside\nprint(beside.WORD)\n")
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    lines: list[tuple[str, str]] = []
    ends: list[tuple[str, str | None]] = []
    run_side_by_side(
        {"one": [sys.executable, str(tmp_path / "command.py")]},
        jobs=1,
        report=lambda name, line: lines.append((name, line)),
        ended=lambda name, why: ends.append((name, why)),
    )
    assert (lines, ends) == ([("one", "found")], [("one", None)])
