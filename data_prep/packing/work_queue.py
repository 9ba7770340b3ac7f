"""Distributes work over MPI ranks: rank 0 hands out one task at a time and works too; a plain loop without MPI."""

import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from climax_hpc.distributed.launcher import OtherRankFailed, detect, mpi_communicator
from climax_hpc.errors import UserError

Result = TypeVar("Result")
_ASK, _ANSWER = 11, 12
_POLL_SECONDS = 0.002  # MPI's own waiting spins and would take the core from a working rank


class WorkQueue:
    """The ranks of a pack, which share tasks; one process without MPI."""

    def __init__(self, communicator: Any = None) -> None:
        self._comm = communicator
        self.rank: int = communicator.Get_rank() if communicator else 0
        self.size: int = communicator.Get_size() if communicator else 1

    @classmethod
    def join(cls) -> "WorkQueue":
        """The ranks under mpiexec or srun, else this process; mpi4py is imported only for several ranks.

        Raises:
            UserError: mpi4py is missing, or was built for another MPI than the launcher's.
        """
        world = detect()
        return cls() if world.size == 1 else cls(mpi_communicator(world).Dup())

    @property
    def is_root(self) -> bool:
        """True on rank 0, which plans, hands out tasks and reports."""
        return self.rank == 0

    def on_root(self, function: Callable[[], Result]) -> Result:
        """Run a function on rank 0 and return its result on all ranks; its error ends all ranks.

        Raises:
            Exception: on rank 0, whatever the function raises.
            OtherRankFailed: on the other ranks, if the function failed.
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
        """Run function(0) … function(count - 1) on the free ranks; return the results in order on all ranks.

        `done` is called on rank 0 for each result. An error on any rank stops the hand-out and ends all ranks.

        Raises:
            Exception: on rank 0, whatever the function raises on any rank.
            OtherRankFailed: on the other ranks, if the function failed.
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
                time.sleep(_POLL_SECONDS)
            task = self._comm.recv(source=0, tag=_ANSWER)
            if task is None:
                return
            report = _attempt(function, task)

    def largest(self, value: float) -> float:
        """The maximum over all ranks."""
        self.wait()
        return value if self.size == 1 else max(self._comm.allgather(value))

    def wait(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            arrival = self._comm.Ibarrier()
            while not arrival.Test():
                time.sleep(_POLL_SECONDS)

    def _broadcast(self, value: Any) -> Any:
        self.wait()
        return value if self.size == 1 else self._comm.bcast(value, root=0)


class _SharedTasks:
    """Task numbers and results; shared by rank 0's own work and the thread that serves the other ranks."""

    def __init__(self, count: int, done: Callable[[int, Any], None]) -> None:
        self._lock = threading.Lock()
        self._next, self._count, self._done = 0, count, done
        self._results: list[Any] = [None] * count
        self._error: BaseException | None = None

    def take(self) -> int | None:
        """The next task; None if none is left or a task failed."""
        with self._lock:
            if self._error is not None or self._next >= self._count:
                return None
            self._next += 1
            return self._next - 1

    def record(self, report: tuple[int, Any, BaseException | None] | None) -> None:
        """Record a result or an error."""
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
        """Run tasks here until none is left."""
        while (task := self.take()) is not None:
            self.record(_attempt(function, task))

    def serve(self, comm: Any) -> None:
        """Answer the other ranks until each has heard that no task is left."""
        waiting = comm.Get_size() - 1
        from mpi4py import MPI

        status = MPI.Status()
        while waiting:
            if not comm.iprobe(source=MPI.ANY_SOURCE, tag=_ASK, status=status):
                time.sleep(_POLL_SECONDS)
                continue
            self.record(comm.recv(source=status.Get_source(), tag=_ASK))
            task = self.take()
            comm.send(task, dest=status.Get_source(), tag=_ANSWER)
            waiting -= task is None

    def results(self) -> list[Any]:
        """All results in order.

        Raises:
            Exception: the first error of any task.
        """
        if self._error is not None:
            raise self._error
        return self._results


def _attempt(function: Callable[[int], Any], task: int) -> tuple[int, Any, BaseException | None]:
    """The result or error of a task, in a form that can be pickled (tracebacks and some exceptions cannot)."""
    try:
        return task, function(task), None
    except UserError as error:
        return task, None, error
    except OSError as error:
        return task, None, OSError(error.errno, error.strerror, error.filename) if error.errno else OSError(str(error))
    except KeyboardInterrupt as error:
        return task, None, error
    except BaseException:
        return task, None, RuntimeError(f"packing failed on task {task}:\n{traceback.format_exc()}")
