"""Which replica a rank computes for, in every layout of up to four ranks."""

from dataclasses import replace

import pytest

from climax_hpc.distributed import process_group, replicas
from climax_hpc.distributed.launcher import World, detect
from climax_hpc.distributed.replicas import replica_of
from climax_hpc.errors import UserError


@pytest.fixture
def without_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other ranks are there to make groups with."""
    monkeypatch.setattr(process_group, "on_all", lambda check: check())
    monkeypatch.setattr(replicas, "_own_group", lambda size, longest_wait: "own")


def world(rank: int, size: int) -> World:
    """One rank of so many."""
    return replace(detect(), rank=rank, size=size)


@pytest.mark.usefixtures("without_groups")
@pytest.mark.parametrize(("ranks", "size"), [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4)])
def test_layout(ranks: int, size: int) -> None:
    found = [replica_of(world(rank, ranks), size) for rank in range(ranks)]
    assert [replica.number for replica in found] == [rank // size for rank in range(ranks)]
    assert {replica.count for replica in found} == {ranks // size}
    places = [replica.band.place if replica.band else 0 for replica in found]
    assert places == [rank % size for rank in range(ranks)]
    assert all((replica.band is None) == (size == 1) for replica in found)


@pytest.mark.usefixtures("without_groups")
def test_layout_that_does_not_divide() -> None:
    with pytest.raises(UserError, match=r"sequence_parallel = 2: 3 ranks cannot form groups of 2: start"):
        replica_of(world(0, 3), 2)
