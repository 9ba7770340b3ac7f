"""Provenance: versions, commit and data; nothing that names a host or a user."""

import getpass
import importlib.metadata
import json
import platform
import re
import subprocess
from typing import Any

import pytest

from climax_hpc.utils.provenance import git_commit, package_version, provenance


def test_provenance_names_versions_and_data_but_no_host() -> None:
    found = provenance(ranks=2, launcher="torchrun", manifest_sha256="ab")
    assert (found["ranks"], found["launcher"], found["manifest_sha256"]) == (2, "torchrun", "ab")
    assert found["packages"]["climax_hpc"] == package_version() == importlib.metadata.version("climax_hpc")
    assert platform.node() not in json.dumps(found)
    assert getpass.getuser() not in json.dumps(found).split('"')


def test_commit() -> None:
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?|unknown", git_commit())


def test_commit_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", absent)
    assert git_commit() == "unknown"
