"""Two processes of one command on one output, and kill -9 at random moments: one whole result, nothing half-written."""

import os
import random
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from .case import Case
from .forked import command, flush
from .harness import Harness

VERBS = ("pack", "pair", "pretrain", "finetune", "convert", "evaluate", "predict", "report", "inspect", "submit")
_ERRORS = "temporary-errors"


def in_the_background(verb: str) -> int:
    """The command in a process of its own; its number. Its standard error goes to a file."""
    child = os.fork()
    if not child:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(Path("..", "temporary", _ERRORS), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        status = command(Case(name="first", verb=verb))
        flush()
        os._exit(status)
    return child


def two_at_once(verb: str, seed: int, seconds: float) -> Case:
    """The command runs while another process, started a little earlier, does the same."""
    other: list[int] = []

    def start(folder: Path) -> None:
        other.append(in_the_background(verb))
        time.sleep(random.Random(f"{verb} {seed}").uniform(0, seconds))

    def wait(folder: Path) -> None:
        _, status = os.waitpid(other.pop(), 0)
        errors = Path("..", "temporary", _ERRORS).read_text()
        if os.waitstatus_to_exitcode(status) not in (0, 2) or "Traceback" in errors:
            sys.stderr.write(f"first process, status {status}: {errors}")

    return Case(name=f"two of {verb} {seed}", verb=verb, enclose=start, afterwards=wait)


def killed(verb: str, seed: int, seconds: float) -> Case:
    """The same command was killed at a random moment before."""

    def kill(folder: Path) -> None:
        child = in_the_background(verb)
        time.sleep(random.Random(f"{verb} {seed}").uniform(0, seconds))
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)

    return Case(name=f"killed {verb} {seed}", verb=verb, enclose=kill, afterwards=lambda folder: None)


def cases(faults: Harness, verbs: tuple[str, ...], seeds: range) -> list[Case]:
    found = []
    for verb in verbs:
        seconds = faults.seconds_of(verb)
        found += [make(verb, seed, seconds) for seed in seeds for make in (two_at_once, killed)]
    return found


def test_a_sample_of_races(faults: Harness) -> None:
    faults.run_all(cases(faults, ("pack", "predict"), range(1)), "races")


@pytest.mark.faults
@pytest.mark.parametrize("verb", VERBS)
def test_races(faults: Harness, verb: str) -> None:
    faults.run_all(cases(faults, (verb,), range(25)), "races")
