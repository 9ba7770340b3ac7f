"""One tiny chain of files for all fuzzers of a process, and a harness per file of tests."""

from pathlib import Path

import pytest

from . import forked, harness
from .tiny_chain import write_chain


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undamaged files."""
    folder = tmp_path_factory.mktemp("chain") / "files"
    folder.mkdir()
    forked.import_modules(forked.in_a_child(write_chain, folder))
    return folder


@pytest.fixture(scope="module")
def faults(chain: Path, tmp_path_factory: pytest.TempPathFactory) -> harness.Harness:
    """Runs cases on copies of them."""
    return harness.Harness(chain=chain, scratch=tmp_path_factory.mktemp("cases"))
