"""One tiny chain of files for all fuzzers of a process, and a harness per file of tests.

The fuzzers fork, so that their process must not have trained or connected before: they are collected only where pytest
is given this folder. `tests/faults/test_fuzzers.py` runs their samples for the default suite.
"""

from pathlib import Path

import pytest

from . import forked, harness
from .tiny_chain import write_chain

FOLDER = Path(__file__).parent


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """True, to ignore, where other folders are tested too; None leaves the choice to pytest."""
    chosen = [Path(word.split("::")[0]).resolve() for word in config.args]
    return None if all(path.is_relative_to(FOLDER) for path in chosen) else True


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
