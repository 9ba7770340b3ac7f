"""Ranks for packing: work handed out one unit at a time by rank 0, which works too; a plain loop without MPI."""

import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from climax_hpc.distributed.launcher import OtherRankFailed, detect, mpi_communicator
from climax_hpc.errors import UserError

Result = TypeVar("Result")
_ASK, _ANSWER = 11, 12
_NAP = 0.002  # seconds; MPI's own waiting spins and would take the core from a rank that works


class WorkQueue:
    """All ranks of a pack, or this process alone."""

    def __init__(self, communicator: Any = None) -> None:
        self._comm = communicator
        self.rank: int = communicator.Get_rank() if communicator else 0
        self.size: int = communicator.Get_size() if communicator else 1

    @classmethod
    def join(cls) -> "WorkQueue":
        """The ranks under mpiexec or srun, this process alone otherwise; mpi4py is imported only for several.

        Raises:
            UserError: mpi4py is absent, or built for another MPI than the launcher's.
        """
        world = detect()
        return cls() if world.size == 1 else cls(mpi_communicator(world).Dup())

    @property
    def is_root(self) -> bool:
        """True on the rank that plans, hands out and reports."""
        return self.rank == 0

    def on_root(self, function: Callable[[], Result]) -> Result:
        """Run a function on rank 0 and give its result to all; its error ends all ranks.

        Raises:
            UserError: and anything else that the function raises, on rank 0; `OtherRankFailed` on the others.
        """
        outcome: tuple[bool, Any] = (True, None)
        error: BaseException | None = None
        if self.is_root:
            try:
                outcome = (True, function())
            except BaseException as caught:
                error, outcome = caught, (False, None)
        outcome = self._broadcast(outcome)
        if error is not None:
            raise error
        if not outcome[0]:
            raise OtherRankFailed
        return outcome[1]

    def map(
        self, function: Callable[[int], Result], count: int, done: Callable[[int, Result], None] = lambda i, r: None
    ) -> list[Result]:
        """function(0) … function(count - 1), on whichever rank is free; the results in order, on all ranks.

        `done` is called on rank 0 as each result arrives. An error on any rank stops the hand-out and ends all ranks.

        Raises:
            UserError: and anything else that the function raises, on rank 0; `OtherRankFailed` on the others.
        """
        tasks = _SharedTasks(count, done)
        if self.size == 1:
            tasks.work(function)
        elif self.is_root:
            serving = threading.Thread(target=tasks.serve, args=(self._comm,), daemon=True)
            serving.start()
            tasks.work(function)
            serving.join()
        else:
            self._ask_for_work(function)
        return self.on_root(tasks.results)

    def _ask_for_work(self, function: Callable[[int], Any]) -> None:
        report: tuple[int, Any, BaseException | None] | None = None
        while True:
            self._comm.send(report, dest=0, tag=_ASK)
            while not self._comm.iprobe(source=0, tag=_ANSWER):
                time.sleep(_NAP)
            task = self._comm.recv(source=0, tag=_ANSWER)
            if task is None:
                return
            report = _attempt(function, task)

    def largest(self, value: float) -> float:
        """The largest value of all ranks."""
        self.wait()
        return value if self.size == 1 else max(self._comm.allgather(value))

    def wait(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            arrival = self._comm.Ibarrier()
            while not arrival.Test():
                time.sleep(_NAP)

    def _broadcast(self, value: Any) -> Any:
        self.wait()
        return value if self.size == 1 else self._comm.bcast(value, root=0)


class _SharedTasks:
    """Hands out task numbers, collects results; shared by rank 0's own work and the thread that serves the others."""

    def __init__(self, count: int, done: Callable[[int, Any], None]) -> None:
        self._lock = threading.Lock()
        self._next, self._count, self._done = 0, count, done
        self._results: list[Any] = [None] * count
        self._error: BaseException | None = None

    def take(self) -> int | None:
        """The next task, None when there is none or something failed."""
        with self._lock:
            if self._error is not None or self._next >= self._count:
                return None
            self._next += 1
            return self._next - 1

    def bring(self, report: tuple[int, Any, BaseException | None] | None) -> None:
        """Put down a result or an error."""
        if report is None:
            return
        task, result, error = report
        with self._lock:
            if error is not None:
                self._error = self._error or error
            else:
                self._results[task] = result
                self._done(task, result)

    def work(self, function: Callable[[int], Any]) -> None:
        """Do tasks here until none is left."""
        while (task := self.take()) is not None:
            self.bring(_attempt(function, task))

    def serve(self, comm: Any) -> None:
        """Answer the other ranks until each has been told that no task is left."""
        waiting = comm.Get_size() - 1
        from mpi4py import MPI

        status = MPI.Status()
        while waiting:
            if not comm.iprobe(source=MPI.ANY_SOURCE, tag=_ASK, status=status):
                time.sleep(_NAP)
                continue
            self.bring(comm.recv(source=status.Get_source(), tag=_ASK))
            task = self.take()
            comm.send(task, dest=status.Get_source(), tag=_ANSWER)
            waiting -= task is None

    def results(self) -> list[Any]:
        """All results in order; raises the first error."""
        if self._error is not None:
            raise self._error
        return self._results


def _attempt(function: Callable[[int], Any], task: int) -> tuple[int, Any, BaseException | None]:
    """A result or an error that travels between ranks (tracebacks and some exceptions cannot be pickled)."""
    try:
        return task, function(task), None
    except UserError as error:
        return task, None, error
    except OSError as error:
        return task, None, OSError(error.errno, str(error))
    except KeyboardInterrupt as error:
        return task, None, error
    except BaseException:
        return task, None, RuntimeError(f"packing failed on task {task}:\n{traceback.format_exc()}")
