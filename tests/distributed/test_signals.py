"""Stop signals are recorded, not fatal; SIGTERM can be turned into SystemExit."""

import os
import signal
import threading

import pytest

from climax_hpc.distributed.signals import (
    EXIT_RANK_LOST,
    EXIT_REQUEUE,
    STOP_SIGNALS,
    WARNING_SIGNAL,
    Stopped,
    StopSignals,
    terminated_as_exit,
)


def test_exit_statuses_are_distinct_from_errors_and_signals() -> None:
    assert Stopped().code == EXIT_REQUEUE
    assert len({0, 1, 2, EXIT_REQUEUE, EXIT_RANK_LOST}) == 5
    assert all(status < 128 for status in (EXIT_REQUEUE, EXIT_RANK_LOST))
    assert WARNING_SIGNAL in STOP_SIGNALS


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_the_first_signal_is_recorded(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in STOP_SIGNALS}
    with StopSignals() as signals:
        assert signals.received is None
        os.kill(os.getpid(), number)
        for each in STOP_SIGNALS:
            os.kill(os.getpid(), each)
        assert signals.received is number
    assert {each: signal.getsignal(each) for each in STOP_SIGNALS} == before


def test_outside_the_main_thread_nothing_changes() -> None:
    before = signal.getsignal(WARNING_SIGNAL)
    seen: list[object] = []

    def run() -> None:
        with StopSignals(), terminated_as_exit():
            seen.append(signal.getsignal(WARNING_SIGNAL))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]


def test_sigterm_as_exit() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left, terminated_as_exit():
        os.kill(os.getpid(), signal.SIGTERM)
    assert left.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
