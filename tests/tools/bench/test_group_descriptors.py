"""Connections of gloo are made at first use, so a rank holds few of them."""

import pytest

from climax_hpc.tools.bench import group_descriptors
from climax_hpc.tools.bench.group_descriptors import count

from .forked import run_ranks


@pytest.mark.slow
def test_fewer_descriptors_than_with_all_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_descriptors, "run_ranks", run_ranks)
    at_start, at_first_use = (count(4, lazy=lazy) for lazy in (False, True))
    assert at_start["ranks"] == at_first_use["ranks"] == 4
    # Connecting opens none to the three other ranks, whereas a full mesh has one to each.
    assert at_first_use["connected_others"] == at_start["connected_others"] - 3
    assert at_first_use["used_others"] <= at_start["used_others"]
