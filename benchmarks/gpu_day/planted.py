"""Stages that a rehearsal plants: one crashes, one hangs with a child, one finds a wrong result."""

import os
import signal
import subprocess
import sys
import time
from typing import Any

from benchmarks.gpu_day.loss import evaluation
from benchmarks.gpu_day.record import Record
from climax_hpc.kernels.verification_sums.op import VerificationSums, verification_sums


def crash(record: Record) -> None:
    """Measures something, then dies as a fault in a kernel would end it."""
    record.add("planted/before_the_crash", 1.0, "s", of=["crashing"])
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(record: Record) -> None:
    """Never ends, ignores SIGTERM, and so does its child."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen(["sleep", "600"])
    record.add("planted/before_the_hang", 1.0, "s", of=["hanging"])
    time.sleep(600)


def wrong(record: Record) -> None:
    """The stage `evaluation` of an operator whose sums are off by a thousandth, where its check is forgotten."""

    def off(*fields: Any) -> VerificationSums:
        sums = verification_sums(*fields)
        return VerificationSums(*(None if total is None else total * 1.001 for total in sums))

    evaluation(record, operator=off, kernel="planted_wrong", times_what_is_wrong=True)


STAGES = {"planted_crash": crash, "planted_hang": hang, "planted_wrong": wrong}
