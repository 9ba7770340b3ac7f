"""Sample order as a pure function of (seed, step): which source, time and lead every sample of a batch has.

A global batch is G micro-batches of g samples; a micro-batch comes from one source, so it has one variable set. Rank r
of R takes the micro-batches r, r + R, …, so that every world size that divides G trains on the same global batches, and
resuming needs only the step number. No index array is stored: within a source, start times follow a keyed permutation.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from math import gcd
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from climax_hpc.errors import UserError

_MASK = (1 << 64) - 1
Array = NDArray[Any]
_AHEAD = 1024  # samples of a rank that are computed together
_SCHEDULE_LENGTH = 1000  # micro-batches in which every source has its share: shares are exact to 0.1 %


class Sample(NamedTuple):
    """One training pair: the state at `time_index`, and the one `lead_steps` time steps later."""

    time_index: int
    lead_steps: int


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """g samples of one source; `key` is the seed of its dropout and augmentation."""

    source: str
    samples: tuple[Sample, ...]
    key: int
    rollout_steps: int | None = None
    """Targets of each sample, at 1, 2, … times its lead time; None: as many as its batch builder makes."""
    noise_keys: tuple[int, ...] = ()
    """One number per sample, the seed of the noise of its members: of the place of the sample in the run's order, so
    that the same samples in other micro-batches have the same ones. Empty where the sampler draws none."""


@dataclass(frozen=True, kw_only=True)
class SourceTimes:
    """What the sampler must know of a source: its contiguous segments, and its lead times in time steps."""

    segments: tuple[tuple[int, int], ...]
    """(first time index, number of time steps) of each segment."""
    min_lead_steps: int
    """Shortest lead time, included."""
    max_lead_steps: int
    """Longest lead time, included."""
    history_steps: int = 0
    """Time steps before the start that the input needs too, in the same segment."""
    tail_steps: int = 0
    """Time steps after the lead time that the target needs too (means over a window, roll-outs), same segment."""
    lead_stride_steps: int = 1
    """Spacing of lead times."""

    @property
    def starts(self) -> list[int]:
        """Number of usable start times of each segment: with room for history, shortest lead time and tail."""
        around = self.history_steps + self.min_lead_steps + self.tail_steps
        return [max(0, steps - around) for _, steps in self.segments]


_START = 0x9E3779B97F4A7C15
_ONE, _TWO = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def hash64(*values: int) -> int:
    """64-bit hash of integers (the finaliser of splitmix64, Steele et al. 2014)."""
    state = _START
    for value in values:
        state = (state + (value & _MASK) * _ONE + _START) & _MASK
        state = ((state ^ (state >> 30)) * _ONE) & _MASK
        state = ((state ^ (state >> 27)) * _TWO) & _MASK
        state ^= state >> 31
    return state


def hash64_of_each(state: int, values_N: Array) -> Array:
    """hash64(…, value) of each value (N,), unsigned 64 bit, given the hash of the values before it."""
    state_N = values_N * np.uint64(_ONE) + np.uint64((state + _START) & _MASK)
    state_N = (state_N ^ (state_N >> np.uint64(30))) * np.uint64(_ONE)
    state_N = (state_N ^ (state_N >> np.uint64(27))) * np.uint64(_TWO)
    return state_N ^ (state_N >> np.uint64(31))


def uniform(*values: int) -> float:
    """A number in [0, 1), uniform over integer arguments."""
    return (hash64(*values) >> 11) / (1 << 53)


def permute(indices_N: Array, size: int, key: int) -> Array:
    """Images (N,) of indices under a keyed permutation of range(size): four Feistel rounds, repeated while outside."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    states = [hash64(key, turn) for turn in range(4)]
    images_N = indices_N.astype(np.uint64)
    outside = np.ones(len(images_N), bool)
    while outside.any():
        left, right = images_N[outside] >> shift, images_N[outside] & mask
        for state in states:
            left, right = right, left ^ (hash64_of_each(state, right) & mask)
        images_N[outside] = (left << shift) | right
        outside = images_N >= size
    return images_N


def division(micro_batch_size: int, micro_batches_per_step: int, ranks: int) -> str:
    """What to set for micro-batches that so many ranks can share, with the same samples per step where possible."""
    samples = micro_batch_size * micro_batches_per_step
    if ranks > samples:  # data parallelism ends here
        times = ranks // gcd(ranks, micro_batches_per_step)
        return (
            f"set data.micro_batches_per_step to a multiple of {ranks}, which trains on more than these {samples} "
            f"samples per step, or train.sequence_parallel to {times} times its value, so that ranks share samples"
        )
    if samples % ranks or ranks < micro_batches_per_step:
        return f"set data.micro_batches_per_step to a multiple of {ranks}"
    sizes = f"data.micro_batch_size = {samples // ranks} and data.micro_batches_per_step = {ranks}"
    return f"set {sizes}, which keeps {samples} samples per step"


def check_division(
    micro_batch_size: int,
    micro_batches_per_step: int,
    ranks: int,
    *,
    sequence: int = 1,
    of: str = "ranks",
    change: str = "the number of ranks",
) -> None:
    """Refuse ranks that cannot share the micro-batches of a step evenly.

    Args:
        sequence: consecutive ranks that share each sample; a multiple of it are there.
        of: what the ranks are called, for the message.
        change: what else the user may change.

    Raises:
        UserError: names both numbers, and what to set.
    """
    replicas = ranks // sequence
    if micro_batches_per_step % replicas:
        who = f"{ranks} {of}" if sequence == 1 else f"{replicas} groups of {sequence} {of}"
        raise UserError(
            f"{who} cannot share data.micro_batches_per_step = {micro_batches_per_step} micro-batches evenly: "
            f"{division(micro_batch_size, micro_batches_per_step, replicas)}, or change {change}"
        )


class Sampler:
    """The order of samples of one training run.

    Args:
        sources: name -> times of a source; the order of names does not matter.
        weights: name -> relative share of the micro-batches; None: equal shares.
        seed: seed of every random choice.
        micro_batch_size: g, samples in a micro-batch.
        micro_batches_per_step: G, micro-batches in a global batch.
        lead_exponent: lead time = shortest + floor(n · u**lead_exponent) steps of n possible ones, u uniform in [0, 1):
            1 draws all equally often (ClimaX), larger values draw short ones more often.
        stratified_leads: the u of a global batch lie one in each of G·g equal parts of [0, 1), those of a micro-batch
            one in each of g parts; False: they are independent (ClimaX).
        rollout_steps: smallest and largest number of roll-out steps; every global batch draws one of them, all equally
            often. None: the batch builder's number.

    Raises:
        UserError: a source without usable samples, or a weight of an unknown source.
    """

    def __init__(
        self,
        sources: Mapping[str, SourceTimes],
        *,
        seed: int,
        micro_batch_size: int,
        micro_batches_per_step: int,
        weights: Mapping[str, float] | None = None,
        lead_exponent: float = 1.0,
        stratified_leads: bool = False,
        rollout_steps: tuple[int, int] | None = None,
    ) -> None:
        self._sources = {name: sources[name] for name in sorted(sources)}
        for name, times in self._sources.items():
            if sum(times.starts) == 0:
                raise UserError(
                    f"source {name} has no pair of times {times.min_lead_steps} steps apart"
                    f"{f' after {times.history_steps} steps of history' if times.history_steps else ''}"
                    f"{f' and {times.tail_steps} more steps of targets' if times.tail_steps else ''} inside the "
                    "period: widen the period, shorten data.min_lead_hours, or leave the source out"
                )
        self._cumulative = {name: list(accumulate(t.starts, initial=0)) for name, t in self._sources.items()}
        self._index = {name: i for i, name in enumerate(self._sources)}
        self._shares = _apportion(self._sources, weights)
        self._seed, self.micro_batch_size, self._micro_batches_per_step = seed, micro_batch_size, micro_batches_per_step
        self._lead_exponent, self._stratified_leads = lead_exponent, stratified_leads
        self._rollout_steps = rollout_steps
        self._schedule = lru_cache(maxsize=2)(self._new_schedule)
        self._left_out: tuple[int, ...] = ()

    def without(self, batches: Iterable[int]) -> "Sampler":
        """The same sampler with some global batches left out: step n gets the n-th of the others."""
        sampler = copy(self)
        sampler._left_out = tuple(sorted(set(batches)))
        return sampler

    def batch_of(self, step: int) -> int:
        """Number of the global batch of a step; equal to `step` unless batches are left out."""
        for batch in self._left_out:
            if batch <= step:
                step += 1
        return step

    def micro_batches(self, step: int, *, rank: int = 0, ranks: int = 1) -> list[MicroBatch]:
        """Micro-batches of `rank` in a step (from 0).

        Raises:
            UserError: the number of ranks does not divide the number of micro-batches.
        """
        check_division(self.micro_batch_size, self._micro_batches_per_step, ranks)
        return self._micro_batches(self._numbers(step, rank, ranks))

    def _numbers(self, step: int, rank: int, ranks: int) -> range:
        first = self.batch_of(step) * self._micro_batches_per_step
        return range(first + rank, first + self._micro_batches_per_step, ranks)

    def stream(self, first_step: int, steps: int, *, rank: int = 0, ranks: int = 1) -> Iterator[tuple[int, MicroBatch]]:
        """(step, micro-batch) for steps first_step … steps-1, computed many at a time, which is ten times faster."""
        self.micro_batches(first_step, rank=rank, ranks=ranks)  # raises for a wrong number of ranks
        each = max(1, _AHEAD * ranks // (self._micro_batches_per_step * self.micro_batch_size))
        for start in range(first_step, steps, each):
            numbered = [
                (step, number)
                for step in range(start, min(start + each, steps))
                for number in self._numbers(step, rank, ranks)
            ]
            micro_batches = self._micro_batches([number for _, number in numbered])
            yield from ((step, micro_batch) for (step, _), micro_batch in zip(numbered, micro_batches, strict=True))

    def _micro_batches(self, numbers: Sequence[int]) -> list[MicroBatch]:
        """Micro-batches by number, counted across all steps."""
        places: dict[str, list[tuple[int, int]]] = {}
        for i, number in enumerate(numbers):
            block, place = divmod(number, _SCHEDULE_LENGTH)
            source, earlier = self._schedule(block)[place]
            places.setdefault(source, []).append((i, block * self._shares[source] + earlier))
        micro_batches: list[MicroBatch] = [None] * len(numbers)  # type: ignore[list-item]
        g = self.micro_batch_size
        for source, found in places.items():
            firsts = np.array([earlier for _, earlier in found], np.int64) * g
            of_samples = (firsts[:, None] + np.arange(g)).reshape(-1)
            samples = self._samples(source, of_samples, np.array([numbers[i] for i, _ in found], np.int64))
            places_N = (np.array([numbers[i] for i, _ in found])[:, None] * g + np.arange(g)).reshape(-1)
            keys = hash64_of_each(hash64(self._seed, 7), places_N.astype(np.uint64)).tolist()
            for k, (i, _) in enumerate(found):
                micro_batches[i] = MicroBatch(
                    source=source,
                    samples=tuple(samples[k * g : (k + 1) * g]),
                    key=hash64(self._seed, 3, numbers[i]),
                    rollout_steps=self._drawn_rollout_steps(numbers[i] // self._micro_batches_per_step),
                    noise_keys=tuple(keys[k * g : (k + 1) * g]),
                )
        return micro_batches

    def _drawn_rollout_steps(self, batch: int) -> int | None:
        """Roll-out steps of a global batch, the same in all of its micro-batches."""
        if self._rollout_steps is None:
            return None
        fewest, most = self._rollout_steps
        return fewest + int(uniform(self._seed, 6, batch) * (most - fewest + 1))

    def _new_schedule(self, block: int) -> list[tuple[str, int]]:
        """(source, number of earlier micro-batches of that source in the block) of each micro-batch of a block."""
        names = [name for name, share in self._shares.items() for _ in range(share)]
        order = permute(np.arange(len(names)), len(names), hash64(self._seed, 1, block)).tolist()
        counts = dict.fromkeys(self._shares, -1)
        schedule = []
        for i in order:
            counts[names[i]] += 1
            schedule.append((names[i], counts[names[i]]))
        return schedule

    def _samples(self, source: str, numbers_N: NDArray[np.int64], micro_batches_M: NDArray[np.int64]) -> list[Sample]:
        """Samples of a source by number, counted across all epochs: g for each of the micro-batches."""
        source_index, times, cumulative = self._index[source], self._sources[source], self._cumulative[source]
        epoch_N, place_N = np.divmod(numbers_N, cumulative[-1])
        start_N = np.empty(len(numbers_N), np.int64)
        for epoch in np.unique(epoch_N).tolist():
            now = epoch_N == epoch
            start_N[now] = permute(place_N[now], cumulative[-1], hash64(self._seed, 2, source_index, epoch))
        segment_N = np.searchsorted(cumulative, start_N, side="right") - 1
        first_N, steps_N = np.array(times.segments, np.int64)[segment_N].T
        offset_N = times.history_steps + start_N - np.array(cumulative, np.int64)[segment_N]
        longest_N = np.minimum(times.max_lead_steps, steps_N - 1 - times.tail_steps - offset_N)
        choices_N = (longest_N - times.min_lead_steps) // times.lead_stride_steps + 1
        hash_N = hash64_of_each(hash64(self._seed, 4, source_index), numbers_N.astype(np.uint64))
        uniform_N = (hash_N >> np.uint64(11)) / (1 << 53)
        if self._stratified_leads:
            uniform_N = self._stratified(uniform_N, micro_batches_M)
        # Python's powers: numpy's differ in the last bit between processors, and all ranks must draw the same.
        draws = zip(choices_N.tolist(), uniform_N.tolist(), strict=True)
        stride = times.lead_stride_steps
        leads = [times.min_lead_steps + stride * int(choices * u**self._lead_exponent) for choices, u in draws]
        return [
            Sample(time_index=time, lead_steps=lead)
            for time, lead in zip((first_N + offset_N).tolist(), leads, strict=True)
        ]

    def _stratified(self, uniform_N: Array, micro_batches_M: NDArray[np.int64]) -> Array:
        """The numbers, g for each micro-batch, moved into their parts of [0, 1).

        Sample k of micro-batch i lies in part k of g, and there in part (i + t) mod G, where t is drawn for every k
        and global batch. So each number alone stays uniform in [0, 1).
        """
        g, G = self.micro_batch_size, self._micro_batches_per_step
        batch_M1, i_M1 = (values_M[:, None] for values_M in np.divmod(micro_batches_M, G))
        turn_MK = hash64_of_each(hash64(self._seed, 5), (batch_M1 * g + np.arange(g)).astype(np.uint64)) % np.uint64(G)
        part_MK = np.arange(g) * G + (i_M1 + turn_MK.astype(np.int64)) % G
        # A number next to 1 would round to 1, which is one lead time too many.
        return np.minimum((part_MK.reshape(-1) + uniform_N) / (g * G), np.nextafter(1.0, 0.0))


def _apportion(sources: Sequence[str] | Mapping[str, object], weights: Mapping[str, float] | None) -> dict[str, int]:
    """Micro-batches of each source in a block of the schedule: largest remainders, at least one each."""
    names = list(sources)
    unknown = sorted(set(weights or {}) - set(names))
    if unknown:
        raise UserError(f"data.weights: unknown source {', '.join(unknown)}; the sources are {', '.join(names)}")
    share = {name: float((weights or {}).get(name, 1.0)) for name in names}
    if min(share.values()) <= 0:
        raise UserError("data.weights must be positive; leave a source out with data.sources")
    total = sum(share.values())
    exact = {name: _SCHEDULE_LENGTH * value / total for name, value in share.items()}
    counts = {name: max(1, int(value)) for name, value in exact.items()}
    for name in sorted(names, key=lambda n: (int(exact[n]) - exact[n], n)):
        if sum(counts.values()) < _SCHEDULE_LENGTH:
            counts[name] += 1
    counts[max(names, key=lambda n: (counts[n], n))] += _SCHEDULE_LENGTH - sum(counts.values())
    return counts
