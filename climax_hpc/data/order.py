"""Sample order as a pure function of (seed, step): which source, time and lead every sample of a batch has.

A global batch is G groups of g samples; a group comes from one source, so it has one variable set. Rank r of R takes
the groups r, r + R, …, so that every world size that divides G trains on the same global batches, and resuming needs
nothing but the step. No index array is ever stored: within a source, start times follow a keyed permutation.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from climax_hpc.errors import UserError

_MASK = (1 << 64) - 1
_SCHEDULE_LENGTH = 1000  # groups after which every source has had its share: weights are exact to 0.1 %


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One training pair: the state at `time_index` and `lead_steps` steps later."""

    time_index: int
    lead_steps: int


@dataclass(frozen=True, kw_only=True)
class Group:
    """g samples of one source; `key` seeds everything random about the group (dropout, augmentation)."""

    source: str
    samples: tuple[Sample, ...]
    key: int


@dataclass(frozen=True, kw_only=True)
class SourceTimes:
    """What the order must know of a source: its stretches without gaps, and its lead times in steps."""

    stretches: tuple[tuple[int, int], ...]
    """(first time index, number of steps) of every stretch inside the split."""
    min_lead_steps: int
    max_lead_steps: int

    @property
    def starts(self) -> list[int]:
        """Number of usable start times of each stretch: those with room for the shortest lead."""
        return [max(0, steps - self.min_lead_steps) for _, steps in self.stretches]


def hash64(*values: int) -> int:
    """A well mixed 64-bit number from integers (splitmix64 finaliser, Steele et al. 2014)."""
    state = 0x9E3779B97F4A7C15
    for value in values:
        state = (state + (value & _MASK) * 0xBF58476D1CE4E5B9 + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def uniform(*values: int) -> float:
    """A number in [0, 1) from integers."""
    return (hash64(*values) >> 11) / (1 << 53)


def permute(index: int, size: int, key: int) -> int:
    """Image of `index` under a keyed permutation of range(size): four Feistel rounds, walked back into the range."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(4):
            left, right = right, left ^ (hash64(key, turn, right) & mask)
        index = (left << half) | right
        if index < size:
            return index


class SampleOrder:
    """The sample order of one training run.

    Args:
        sources: name -> its times; order of names does not matter.
        weights: name -> relative share of groups; all equal where None.
        seed: key of every random choice.
        group_size: g, samples of a group.
        groups_per_step: G, groups of a global batch.
        lead_exponent: lead = min + floor(n · u**exponent) steps with u uniform: 1 draws all leads alike (ClimaX),
            larger values draw short leads more often. Both ends are included.

    Raises:
        UserError: no source has a usable sample, or a weight names no source.
    """

    def __init__(
        self,
        sources: Mapping[str, SourceTimes],
        *,
        seed: int,
        group_size: int,
        groups_per_step: int,
        weights: Mapping[str, float] | None = None,
        lead_exponent: float = 1.0,
    ) -> None:
        self._sources = {name: sources[name] for name in sorted(sources)}
        for name, times in self._sources.items():
            if sum(times.starts) == 0:
                raise UserError(
                    f"source {name} has no pair of times {times.min_lead_steps} steps apart inside the period: "
                    "widen the period, shorten data.min_lead_hours, or leave the source out"
                )
        self._cumulative = {name: list(accumulate(t.starts, initial=0)) for name, t in self._sources.items()}
        self._shares = _apportion(self._sources, weights)
        self._seed, self._group_size, self._groups_per_step = seed, group_size, groups_per_step
        self._lead_exponent = lead_exponent
        self._left_out: tuple[int, ...] = ()

    def without(self, batches: Iterable[int]) -> "SampleOrder":
        """This order with some global batches left out: step n gets the n-th of the others."""
        order = copy(self)
        order._left_out = tuple(sorted(set(batches)))
        return order

    def batch_of(self, step: int) -> int:
        """Number of the global batch that step `step` trains on; the step itself where none is left out."""
        for batch in self._left_out:
            if batch <= step:
                step += 1
        return step

    def groups(self, step: int, *, rank: int = 0, ranks: int = 1) -> list[Group]:
        """The groups of global step `step` (from 0) that `rank` of `ranks` works on.

        Raises:
            UserError: the number of ranks does not divide the number of groups.
        """
        if self._groups_per_step % ranks:
            raise UserError(
                f"{ranks} ranks cannot share {self._groups_per_step} groups evenly: "
                f"set data.groups_per_step to a multiple of {ranks}, or change the number of ranks"
            )
        first = self.batch_of(step) * self._groups_per_step
        return [self._group(first + j) for j in range(rank, self._groups_per_step, ranks)]

    def _group(self, number: int) -> Group:
        source, earlier = self._source_of(number)
        source_index = list(self._sources).index(source)
        samples = (self._sample(source, source_index, earlier * self._group_size + i) for i in range(self._group_size))
        return Group(source=source, samples=tuple(samples), key=hash64(self._seed, 3, number))

    def _source_of(self, number: int) -> tuple[str, int]:
        """Source of a group, and how many groups that source had before."""
        block, place = divmod(number, _SCHEDULE_LENGTH)
        schedule = self._schedule(block)
        source = schedule[place]
        return source, block * self._shares[source] + schedule[:place].count(source)

    @lru_cache(maxsize=4)  # noqa: B019 - one order lives as long as its run
    def _schedule(self, block: int) -> tuple[str, ...]:
        names = [name for name, share in self._shares.items() for _ in range(share)]
        key = hash64(self._seed, 1, block)
        return tuple(names[permute(i, len(names), key)] for i in range(len(names)))

    def _sample(self, source: str, source_index: int, number: int) -> Sample:
        times, cumulative = self._sources[source], self._cumulative[source]
        epoch, place = divmod(number, cumulative[-1])
        start = permute(place, cumulative[-1], hash64(self._seed, 2, source_index, epoch))
        stretch = bisect_right(cumulative, start) - 1
        first, steps = times.stretches[stretch]
        offset = start - cumulative[stretch]
        longest = min(times.max_lead_steps, steps - 1 - offset)
        choices = longest - times.min_lead_steps + 1
        u = uniform(self._seed, 4, source_index, number)
        lead = times.min_lead_steps + int(choices * u**self._lead_exponent)
        return Sample(time_index=first + offset, lead_steps=lead)


def _apportion(sources: Sequence[str] | Mapping[str, object], weights: Mapping[str, float] | None) -> dict[str, int]:
    """Groups of each source in one schedule block: largest remainders, at least one each."""
    names = list(sources)
    unknown = sorted(set(weights or {}) - set(names))
    if unknown:
        raise UserError(f"data.weights names {', '.join(unknown)}, but the sources are {', '.join(names)}")
    share = {name: float((weights or {}).get(name, 1.0)) for name in names}
    if min(share.values()) <= 0:
        raise UserError("data.weights must be positive; use data.sources to leave a source out")
    total = sum(share.values())
    exact = {name: _SCHEDULE_LENGTH * value / total for name, value in share.items()}
    counts = {name: max(1, int(value)) for name, value in exact.items()}
    for name in sorted(names, key=lambda n: (int(exact[n]) - exact[n], n)):
        if sum(counts.values()) < _SCHEDULE_LENGTH:
            counts[name] += 1
    counts[max(names, key=lambda n: (counts[n], n))] += _SCHEDULE_LENGTH - sum(counts.values())
    return counts
