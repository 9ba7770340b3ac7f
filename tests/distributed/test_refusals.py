"""What all ranks refuse is printed once; what one rank alone refuses is printed by it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from climax_hpc.distributed import refusals
from climax_hpc.distributed.launcher import OtherRankFailed
from climax_hpc.errors import EXIT_BAD_INPUT, UserError

# A rank: `python -c RANK folder arguments…`; it waits until all three have come to the same place.
RANK = """
import os, sys, time
from pathlib import Path
from climax_hpc import cli
run = cli.run
def together(arguments):
    Path(sys.argv[1], os.environ["RANK"]).touch()
    while len(list(Path(sys.argv[1]).iterdir())) < 3:
        time.sleep(0.01)
    run(arguments[1:])
cli.run = together
cli.main()
"""


def start_ranks(folder: Path, *arguments: list[str]) -> list[tuple[int, str]]:
    """Exit status and standard error of three ranks with these arguments."""
    meet = folder / "ranks"
    meet.mkdir()
    base = os.environ | {"WORLD_SIZE": "3", "MASTER_PORT": str(os.getpid())}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(meet), *words], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
            text=True, env=base | {"RANK": str(number), "LOCAL_RANK": str(number)}, cwd=folder,
        )
        for number, words in enumerate(arguments)
    ]  # fmt: skip
    return [(rank.wait(), rank.stderr.read() if rank.stderr else "") for rank in ranks]


def test_three_ranks_print_the_same_refusal_once(tmp_path: Path) -> None:
    ended = start_ranks(tmp_path, *[["variables", "--no_such_key=1"]] * 3)
    assert [status for status, _ in ended] == [EXIT_BAD_INPUT] * 3
    lines = [line for _, shown in ended for line in shown.splitlines()]
    assert len(lines) == 1, lines
    assert "no_such_key" in lines[0]


def test_a_rank_that_alone_refuses_prints_it(tmp_path: Path) -> None:
    fine = ["variables"]
    ended = start_ranks(tmp_path, fine, fine, ["variables", "--no_such_key=1"])
    assert [status for status, _ in ended] == [0, 0, EXIT_BAD_INPUT]
    assert "no_such_key" in ended[2][1]


def test_ranks_that_refuse_different_things_all_print(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "_held", {"kept": None})  # nothing to wait for at the end of this process
    assert refusals._first_to_say("one", {"MASTER_PORT": "1"})
    assert refusals._first_to_say("two", {"MASTER_PORT": "1"})
    assert refusals._first_to_say("one", {"MASTER_PORT": "2"})  # of another job
    assert refusals._first_to_say("one", {"MASTER_PORT": "1"})  # by the rank that has said it
    mine = dict(refusals._held)
    monkeypatch.setattr(refusals, "_held", {"kept": None})
    assert not refusals._first_to_say("one", {"MASTER_PORT": "1"})  # by another rank
    for taken in mine.values():
        if taken is not None:
            taken.close()
    assert refusals._first_to_say("one", {"MASTER_PORT": "1"})


def test_one_process_and_connected_ranks_keep_their_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "_first_to_say", lambda message, environment: False)
    for many, connected, expected in (
        (False, False, UserError), (True, True, UserError), (True, False, OtherRankFailed),
    ):  # fmt: skip
        monkeypatch.setattr(refusals, "_is_one_of_many", lambda many=many: many)
        monkeypatch.setattr(refusals, "_connected", lambda connected=connected: connected)
        with pytest.raises(expected), refusals.refused_once():
            raise UserError("bad")
