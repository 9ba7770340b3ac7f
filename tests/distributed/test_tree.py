"""Values of all ranks are combined in their order, along a tree in which no rank exchanges many messages."""

import operator
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from climax_hpc.distributed import process_group
from climax_hpc.distributed.tree import combined_on_first
from tests.training.processes import finish, start

_RANK = """
import json
from climax_hpc.distributed import process_group
from climax_hpc.errors import UserError
world = process_group.connect()
gathered = process_group.gathered({"rank": world.rank})
try:
    process_group.on_all(lambda: 1 // (world.rank not in (2, 3)))
except BaseException as error:
    ended = type(error).__name__
print(json.dumps([world.rank, gathered, ended]), flush=True)
"""


class PretendedRanks:
    """Runs the ranks of a group one after the other, the last first: each has what later ranks have sent to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
        self.rank, self.ranks = 0, ranks
        self.sent: dict[tuple[int, int], list[Any]] = {}
        self.messages = Counter[int]()
        """Sent and received, by rank."""
        replaced = {
            "get_rank": lambda group: self.rank,
            "get_world_size": lambda group: self.ranks,
            "send_object_list": self._send,
            "recv_object_list": self._receive,
        }
        for name, function in replaced.items():
            monkeypatch.setattr(torch.distributed, name, function)

    def _send(self, values: list[Any], to: int, **options: Any) -> None:
        self.sent[self.rank, to] = values
        self.messages.update((self.rank, to))

    def _receive(self, into: list[Any], sender: int, **options: Any) -> None:
        into[:] = self.sent.pop((sender, self.rank))

    def combined(self) -> list[str]:
        """The ranks in the order in which they were combined on rank 0."""
        found: list[str] = []
        for rank in reversed(range(self.ranks)):
            self.rank = rank
            found = combined_on_first([f"rank {self.rank}"], operator.add)
        assert not self.sent
        return found


@pytest.mark.parametrize("ranks", [1, 2, 3, 6, 8, 13, 4096])
def test_order_and_messages(monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
    pretended = PretendedRanks(monkeypatch, ranks)
    assert pretended.combined() == [f"rank {rank}" for rank in range(ranks)]
    assert sum(pretended.messages.values()) == 2 * (ranks - 1)
    assert max(pretended.messages.values(), default=0) <= (ranks - 1).bit_length()


def test_alone() -> None:
    process_group.connect()
    assert process_group.gathered("x") == ["x"]
    assert process_group.on_all(lambda: 7) == 7


@pytest.mark.slow
def test_five_ranks_gather_and_agree_on_the_first_that_failed(tmp_path: Path) -> None:
    statuses, output, errors = finish(start(_RANK, 5, tmp_path))
    assert statuses == [0] * 5, errors
    everywhere = [{"rank": rank} for rank in range(5)]
    assert sorted(output.splitlines()) == [
        f'[{rank}, {str(everywhere).replace(chr(39), chr(34))}, "{ended}"]'
        for rank, ended in enumerate(["OtherRankFailed"] * 2 + ["ZeroDivisionError"] + ["OtherRankFailed"] * 2)
    ]
