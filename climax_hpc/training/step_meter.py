"""Measures the steps of a run: FLOP, waits for data, gradient norm, memory, and which rank the others wait for.

A step costs a few clock readings, or events of a GPU, and neither a collective nor a wait of the host. At a logged step
ranks exchange five numbers on the host, and the host reads the gradient norm.

A rank's own time ends where it first waits for others: before the first reduction of gradients of every pass. At ZeRO
stage 3 ranks meet in the forward pass already, so their own time is that of getting data.
"""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from math import isfinite
from socket import gethostname
from typing import Any, TypeVar

import torch
from torch import Tensor

from climax_hpc.data.sampler import MicroBatch
from climax_hpc.distributed import process_group
from climax_hpc.training.deepspeed_step import before_first_reduction, before_update, norms
from climax_hpc.training.telemetry import STRAGGLER_LOGS, Lag, StragglerWatch, Telemetry, lag_of

Item = TypeVar("Item")


class _HostClock:
    """Times on this processor."""

    def mark(self) -> Any:
        """Now."""
        return time.perf_counter()

    def seconds(self, start: Any, end: Any) -> float:
        """Between two marks."""
        return float(end - start)


class _DeviceClock:
    """Times on a GPU, in the order of its work."""

    def mark(self) -> Any:
        """When the GPU has done the work so far."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: Any, end: Any) -> float:
        """Between two marks that the GPU has passed."""
        return float(start.elapsed_time(end)) / 1e3


class StepMeter:
    """Collects what a rank did since the last logged step."""

    def __init__(
        self,
        engine: Any,
        *,
        flop: Callable[[MicroBatch], float | None],
        peak_flop_per_second: float | None,
        is_logged: Callable[[int], bool],
    ) -> None:
        """Watch an engine.

        Args:
            flop: of a micro-batch on this rank.
            peak_flop_per_second: of this rank's device; None: not known.
            is_logged: whether a number of steps done is logged.
        """
        self._engine, self._flop_of, self._peak, self._is_logged = engine, flop, peak_flop_per_second, is_logged
        self._clock = _DeviceClock() if process_group.device().type == "cuda" else _HostClock()
        self._watch, self._since, self._step = StragglerWatch(), time.perf_counter(), 0
        self._begun: Any = None
        self._begun_on_host = 0.0
        self._passes: list[tuple[Any, Any]] = []
        self._norm: Tensor | None = None
        self._clear()
        before_first_reduction(engine, self._reached_others)
        before_update(engine, self._take_norm)

    def _clear(self) -> None:
        self._steps, self._own, self._stepping, self._waited = 0, 0.0, 0.0, 0.0
        self._flop: float | None = 0.0

    def timed(self, stream: Iterator[Item]) -> Iterator[Item]:
        """The items of a stream; the time of a pass begins where its item is requested."""
        while True:
            self._begun, self._begun_on_host = self._clock.mark(), time.perf_counter()
            if (item := next(stream, None)) is None:
                return
            yield item

    def waited(self, seconds: float) -> None:
        """This rank has waited so long for data."""
        self._waited += seconds

    def _reached_others(self) -> None:
        if self._begun is not None:  # later parts of the same pass are after the first exchange
            self._passes.append((self._begun, self._clock.mark()))
            self._begun = None

    def _take_norm(self) -> None:
        """At stage 0, where DeepSpeed computes no norm: that of the gradients, the same on all ranks."""
        if self._engine.zero_optimization_stage() == 0 and self._is_logged(self._step + 1):
            gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
            self._norm = torch.linalg.vector_norm(norms(gradients))

    def begin_pass(self, step: int, micro_batch: MicroBatch) -> None:
        """The forward pass of this micro-batch follows, after `step` steps."""
        self._step, more = step, self._flop_of(micro_batch)
        self._flop = None if more is None or self._flop is None else self._flop + more

    def end_pass(self) -> None:
        """A pass is done, or a step; the host has waited for the device since its gradients were ready if a step is."""
        self._stepping += time.perf_counter() - self._begun_on_host

    def end_step(self) -> None:
        """A step is done on all ranks."""
        self._steps += 1
        self._own += sum(self._clock.seconds(*one) for one in self._passes)
        self._passes.clear()

    def read(self) -> tuple[Telemetry, str]:
        """The figures since the last call, and in words a rank that became a straggler; all ranks call this together.

        The words are empty where there is none.
        """
        now = time.perf_counter()
        interval, self._since = now - self._since, now
        flop = float("nan") if self._flop is None else self._flop
        own = [self._own, self._stepping, self._waited / interval, flop / interval, _peak_memory()]
        own_R, stepping_R, waited_R, rate_R, memory_R = zip(*process_group.gathered(own), strict=True)
        lag = lag_of([seconds / self._steps for seconds in own_R], min(stepping_R) / self._steps)
        rate, norm = sum(rate_R), self._gradient_norm()
        telemetry = Telemetry(
            data_wait_share=sum(waited_R) / len(waited_R),
            peak_memory_bytes=max(memory_R),
            gradient_norm=norm if norm is not None and isfinite(norm) else None,
            model_flop_per_second=rate if isfinite(rate) else None,
            model_flop_utilisation=rate / (len(rate_R) * self._peak) if self._peak and isfinite(rate) else None,
            slowest_rank=lag.rank if lag else None,
            slowest_rank_lag_seconds=lag.seconds if lag else None,
            slowest_rank_lag_share=lag.share if lag else None,
        )
        self._clear()
        return telemetry, _in_words(lag) if lag and self._watch.is_new(lag) else ""

    def _gradient_norm(self) -> float | None:
        norm = self._norm
        if self._engine.zero_optimization_stage():
            norm = getattr(self._engine.optimizer, "_global_grad_norm", None)
        return None if norm is None else float(norm)


def _peak_memory() -> float:
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most if sys.platform == "darwin" else most << 10)


def _in_words(lag: Lag) -> str:
    """Names the rank and its host; all ranks call this together."""
    hosts = process_group.gathered(gethostname())
    return (
        f"rank {lag.rank} on {hosts[lag.rank]} is a straggler: at {STRAGGLER_LOGS} logged steps in a row the others "
        f"waited for it, now {lag.seconds * 1e3:.3g} ms a step, which makes steps {lag.share:.0%} longer; check that "
        "host (`climax-hpc doctor`), or leave it out"
    )
