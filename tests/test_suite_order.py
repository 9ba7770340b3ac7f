"""Files that hold a slow test are run first."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .conftest import pytest_collection_modifyitems


def test_files_with_a_slow_test_come_first_and_stay_whole() -> None:
    marks = {"a": "", "b": "", "c": "slow", "d": "", "e": "slow"}
    files = {"a": "quick.py", "b": "mixed.py", "c": "mixed.py", "d": "quick.py", "e": "long.py"}

    def item(name: str) -> Any:
        return SimpleNamespace(name=name, path=Path(files[name]), get_closest_marker=lambda mark: mark == marks[name])

    items = [item(name) for name in files]
    pytest_collection_modifyitems(items)
    assert "".join(each.name for each in items) == "bcead"
