"""`climax-hpc plan --goodput true`: the share of time that training moves on, and the best time between checkpoints.

T work between two checkpoints, C stall of one, W until it is complete, M mean time between failures [s]. A run is a
chain of complete checkpoints. From one to the next it takes T + C without a failure; after a failure T + C + W, because
it starts again from a checkpoint that was W old when it was complete. With exponential times between failures, r the
mean time of a recovery (which may fail itself), a = T + C + W and b = T + C (a renewal process, as in Daly 2006, A
higher order estimate of the optimum checkpoint interval for restart dumps, FGCS 22, equation 20, which has W = 0):

    after a failure  E_a = (M + r) (exp(a/M) - 1)
    otherwise        E_b = (1 - exp(-b/M)) (M + r + E_a),        goodput = T / E_b

The simulation draws the failures of every node and follows one run through them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from climax_hpc.errors import require
from climax_hpc.tools.plan.recovery import Recovery

_DAY = 86_400.0
_MOST_FAILURES = 300_000  # simulated: some seconds for every interval
_SECTION = (math.sqrt(5) - 1) / 2  # golden section


@dataclass(frozen=True, kw_only=True)
class FailureModel:
    """Failures of a job, and what each kind costs."""

    nodes: int
    mean_between: float
    """Mean time between failures of the job [s]."""
    stall: float
    """C, training time that one checkpoint takes [s]."""
    write: float
    """W, until a checkpoint is complete [s]."""
    kinds: dict[str, tuple[float, float]]
    """Kind of failure -> its share, and the time from the failure to the first step [s]; shares sum to 1."""

    @classmethod
    def of(
        cls, recovery: Recovery, *, nodes: int, mean_between: float, requeue_share: float, hang_share: float,
        hang_timeout: float,
    ) -> "FailureModel":  # fmt: skip
        """The model of measured durations.

        Args:
            mean_between: time between failures of the job [s].
            requeue_share: fraction of failures after which the job is requeued.
            hang_share: fraction found only after `hang_timeout` [s]; the rest start again inside the job.
        """
        restart, requeue = recovery.detection + recovery.restart, recovery.detection + recovery.requeue
        kinds = {
            "lost ranks, started again in the job": (1 - requeue_share - hang_share, restart),
            "lost nodes, job requeued": (requeue_share, requeue),
            f"hangs, found after {hang_timeout:g} s": (hang_share, hang_timeout + restart),
        }
        return cls(
            nodes=nodes, mean_between=mean_between, stall=recovery.stall, write=recovery.write,
            kinds={name: kind for name, kind in kinds.items() if kind[0] > 0},
        )  # fmt: skip

    @property
    def mean_recovery(self) -> float:
        """r, the mean time of a recovery, with those that fail themselves [s]."""
        survival = sum(share * math.exp(-seconds / self.mean_between) for share, seconds in self.kinds.values())
        return self.mean_between * (1 - survival) / survival if survival > 0 else math.inf

    def goodput(self, interval: float) -> float:
        """Share of time in which work is done that is kept, by the closed form; `interval`: T [s], at least W."""
        M, b = self.mean_between, interval + self.stall
        exponent = (b + self.write) / M
        if exponent > 500 or self.mean_recovery == math.inf:
            return 0.0
        after_failure = (M + self.mean_recovery) * math.expm1(exponent)
        return interval / (-math.expm1(-b / M) * (M + self.mean_recovery + after_failure))

    def best_interval(self) -> float:
        """The T of the highest goodput [s], by golden section; goodput has a single maximum."""
        low, high = max(self.write, self.stall, 1.0), max(20 * self.mean_between, 10 * self.write, 10.0)
        return _maximum(lambda log: self.goodput(math.exp(log)), math.log(low), math.log(high))

    @property
    def young(self) -> float:
        """Young's interval sqrt(2 C M) (1974, A first order approximation to the optimum checkpoint interval) [s]."""
        return math.sqrt(2 * self.stall * self.mean_between)


def _maximum(function: Callable[[float], float], low: float, high: float) -> float:
    """exp of where a function with one maximum has it."""
    while high - low > 1e-6:
        left, right = high - _SECTION * (high - low), low + _SECTION * (high - low)
        low, high = (low, right) if function(left) >= function(right) else (left, high)
    return math.exp((low + high) / 2)


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """Where the time of one simulated run went, as shares of it; they sum to 1."""

    goodput: float
    """Work that was kept."""
    redone: float
    """Work since the last complete checkpoint, lost at a failure."""
    stalls: float
    """Stalls of checkpoints that were kept."""
    recovery: dict[str, float]
    """Kind of failure -> from the failure to the first step."""
    failures: int
    lowest: float
    highest: float
    """Goodput: 5 and 95 % of the means of 100 parts of the run, resampled."""


def failure_times(model: FailureModel, horizon: float, random: np.random.Generator) -> np.ndarray:
    """Times at which any node fails, in order [s], up to `horizon`; every node is replaced at once."""
    of_node = model.mean_between * model.nodes
    times = []
    alive = np.zeros(model.nodes)
    while alive.size:
        alive = alive + random.exponential(of_node, alive.size)
        alive = alive[alive < horizon]
        times.append(alive)
    return np.sort(np.concatenate(times))


def simulate(model: FailureModel, interval: float, *, days: float, seed: int) -> Simulated:
    """Follow one run of `days` through random failures of its nodes; the same seed draws the same failures.

    Args:
        interval: T, work between checkpoints [s].

    Raises:
        UserError: so many failures that the simulation would not end.
    """
    expected = days * _DAY / model.mean_between
    require(
        expected <= _MOST_FAILURES,
        f"failures.simulated_days = {days:g}: with one every {model.mean_between:g} s there are {expected:.3g} "
        f"failures, at most {_MOST_FAILURES} are simulated: set failures.simulated_days to "
        f"{_MOST_FAILURES * model.mean_between / _DAY:.3g} or less",
    )
    random = np.random.default_rng(seed)
    horizon = days * _DAY
    failures = failure_times(model, horizon, random)
    names = list(model.kinds)
    shares = np.array([model.kinds[name][0] for name in names])
    drawn = random.choice(len(names), size=len(failures), p=shares / shares.sum())
    kept = redone = stalls = 0.0
    recovery = dict.fromkeys(names, 0.0)
    at, kept_at = [0.0], [0.0]  # times, and the work kept until then: it grows evenly from the first step on
    started, kind = 0.0, ""  # of the present period without a failure; kind: the failure before it
    for time, number in [*zip(failures.tolist(), drawn.tolist(), strict=True), (horizon, -1)]:
        begin = time if not kind else min(time, started + model.kinds[kind][1])
        if kind:
            recovery[kind] += begin - started
        else:
            begin = started
        complete = max(0, math.floor((time - begin - model.write) / (interval + model.stall)))
        kept += complete * interval
        at += [begin, begin + complete * (interval + model.stall)]
        kept_at += [kept_at[-1], kept]
        stalls += complete * model.stall
        redone += time - begin - complete * (interval + model.stall)
        started, kind = time, names[number] if number >= 0 else ""
    parts = np.diff(np.interp(np.linspace(0, horizon, 101), at, kept_at)) / (horizon / 100)
    means = random.choice(parts, size=(1000, 100)).mean(axis=1)
    lowest, highest = np.quantile(means, (0.05, 0.95)).tolist()
    return Simulated(
        goodput=kept / horizon, redone=redone / horizon, stalls=stalls / horizon,
        recovery={name: seconds / horizon for name, seconds in recovery.items()}, failures=len(failures),
        lowest=lowest, highest=highest,
    )  # fmt: skip
