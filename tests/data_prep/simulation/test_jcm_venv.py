"""The GCM's Python environment: found, built or refused; its output is passed on."""

import sys
from pathlib import Path

import pytest

from climax_hpc.data_prep.simulation.jcm_venv import default_venv, ensure_venv, run_streaming
from climax_hpc.errors import UserError


def test_a_foreign_folder_is_not_used_as_the_environment(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="no jcm"):
        ensure_venv(tmp_path, print)
    assert (tmp_path / "file").read_text() == "mine"


def test_failed_installation_leaves_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nmkdir -p $3/bin; echo no network; exit 1\n")  # called as: python -m venv FOLDER
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(UserError, match="creating the GCM's environment failed: no network"):
        ensure_venv(tmp_path / "cache" / "venv", lambda line: None)
    assert not any((tmp_path / "cache").iterdir())


def test_environment_variable_names_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIMAX_HPC_JCM_VENV", str(tmp_path / "jcm"))
    assert default_venv() == tmp_path / "jcm"
    monkeypatch.delenv("CLIMAX_HPC_JCM_VENV")
    assert default_venv() == Path.home() / ".cache/climax_hpc/jcm-venv"


def test_streaming_reports_every_line_and_the_status() -> None:
    lines: list[str] = []
    assert run_streaming(["sh", "-c", "echo one; echo two >&2; exit 3"], lines.append) == (3, "one | two")
    assert lines == ["one", "two"]
