"""The sampler: a pure function, the same global batches with any number of ranks, every pair inside a segment."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from climax_hpc.data.sampler import MicroBatch, Sampler, SourceTimes, division, hash64, permute, uniform
from climax_hpc.errors import UserError

segments = st.lists(st.integers(1, 60), min_size=1, max_size=5).map(
    lambda lengths: tuple((100 * i, length) for i, length in enumerate(lengths))
)


def make_sampler(sources: dict[str, SourceTimes], **changes: object) -> Sampler:
    settings: dict = {"seed": 7, "micro_batch_size": 3, "micro_batches_per_step": 12}
    return Sampler(sources, **(settings | changes))


def one_source(lengths: tuple[int, ...] = (40, 25), shortest: int = 1, longest: int = 28) -> dict[str, SourceTimes]:
    spans = tuple((100 * i, length) for i, length in enumerate(lengths))
    return {"a": SourceTimes(segments=spans, min_lead_steps=shortest, max_lead_steps=longest)}


@settings(deadline=None)
@given(size=st.integers(1, 5000), key=st.integers(0, 2**64 - 1))
def test_permutation_hits_every_index_once(size: int, key: int) -> None:
    assert sorted(permute(np.arange(size), size, key).tolist()) == list(range(size))


def test_permutations_of_different_keys_differ() -> None:
    assert len({tuple(permute(np.arange(50), 50, key).tolist()) for key in range(40)}) == 40


def test_hash_depends_on_order_and_values() -> None:
    assert len({hash64(), hash64(0), hash64(0, 0), hash64(1, 0), hash64(0, 1)}) == 5


def test_uniform_fills_the_unit_interval_evenly() -> None:
    counts = Counter(int(10 * uniform(3, i)) for i in range(20_000))
    assert set(counts) == set(range(10))
    # Binomial: 2000 ± 6·42.
    assert all(abs(count - 2000) < 255 for count in counts.values())


@st.composite
def samplers(draw: st.DrawFn) -> Sampler:
    """A sampler of 24 micro-batches per step over one to three sources with gaps, history and any weights."""
    names = draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3, unique=True))
    shortest, history = draw(st.integers(1, 5)), draw(st.integers(0, 3))
    sources = {
        name: SourceTimes(
            segments=((0, draw(st.integers(shortest + history + 1, 50))), *draw(segments)[1:]),
            min_lead_steps=shortest,
            max_lead_steps=shortest + draw(st.integers(0, 30)),
            history_steps=history,
        )
        for name in names
    }
    return Sampler(
        sources,
        seed=draw(st.integers(0, 2**63)),
        micro_batch_size=draw(st.integers(1, 4)),
        micro_batches_per_step=24,
        weights={name: draw(st.floats(0.1, 9)) for name in names},
        lead_exponent=draw(st.floats(0.5, 3)),
        stratified_leads=draw(st.booleans()),
        rollout_steps=draw(st.sampled_from([None, (1, 4)])),
    )


@settings(deadline=None, max_examples=25)
@given(sampler=samplers(), first_step=st.integers(0, 10**7))
def test_any_rank_count_gives_the_same_global_batches_in_the_same_order(sampler: Sampler, first_step: int) -> None:
    steps = range(first_step, first_step + 3)
    whole = [sampler.micro_batches(step) for step in steps]
    for ranks in (1, 2, 3, 4, 6, 8):
        streams = [list(sampler.stream(first_step, first_step + 3, rank=r, ranks=ranks)) for r in range(ranks)]
        for k, step in enumerate(steps):
            own = [[micro_batch for at, micro_batch in stream if at == step] for stream in streams]
            # Micro-batch j of the step is the (j // ranks)-th of rank j % ranks: compared in place, not sorted.
            assert [own[j % ranks][j // ranks] for j in range(24)] == whole[k]


@settings(deadline=None, max_examples=25)
@given(sampler=samplers(), stop=st.integers(1, 40), data=st.data())
def test_a_run_resumed_by_step_number_equals_one_that_never_stopped(
    sampler: Sampler, stop: int, data: st.DataObject
) -> None:
    resumed = data.draw(st.integers(0, stop))
    whole = list(sampler.stream(0, stop, rank=1, ranks=3))
    assert list(sampler.stream(resumed, stop, rank=1, ranks=3)) == [item for item in whole if item[0] >= resumed]


@settings(deadline=None, max_examples=25)
@given(spans=segments, history=st.integers(0, 4), micro_batch_size=st.integers(1, 5), seed=st.integers(0, 2**40))
def test_every_usable_start_is_seen_exactly_once_an_epoch(
    spans: tuple[tuple[int, int], ...], history: int, micro_batch_size: int, seed: int
) -> None:
    times = SourceTimes(segments=((1000, 20), *spans), min_lead_steps=2, max_lead_steps=9, history_steps=history)
    usable = [first + i for first, steps in times.segments for i in range(history, steps - 2)]
    sampler = Sampler({"a": times}, seed=seed, micro_batch_size=micro_batch_size, micro_batches_per_step=1)
    micro_batches = sampler.stream(0, 3 * len(usable))
    starts = [s.time_index for _, micro_batch in micro_batches for s in micro_batch.samples]
    for epoch in range(3):
        assert sorted(starts[epoch * len(usable) : (epoch + 1) * len(usable)]) == sorted(usable)


def test_a_rank_count_that_does_not_divide_the_micro_batches_is_refused() -> None:
    with pytest.raises(UserError, match=r"5 ranks cannot share .* = 12 micro-batches evenly: set data.micro_batches_p"):
        make_sampler(one_source()).micro_batches(0, ranks=5)
    same = "set data.micro_batch_size = 8 and data.micro_batches_per_step = 64, which keeps 512 samples per step"
    assert division(64, 8, 64) == same
    assert division(64, 8, 3) == "set data.micro_batches_per_step to a multiple of 3"


@pytest.mark.parametrize(("g", "G", "ranks", "times"), [(1, 1, 3, 3), (8, 128, 8192, 64), (4, 6, 32, 16)])
def test_more_ranks_than_samples_in_a_step_may_share_samples(g: int, G: int, ranks: int, times: int) -> None:
    advice = division(g, G, ranks)
    assert f"a multiple of {ranks}, which trains on more than these {g * G} samples per step" in advice
    assert f"or train.sequence_parallel to {times} times its value" in advice
    assert ranks % times == 0
    assert G % (ranks // times) == 0  # so many replicas can share the micro-batches


@settings(deadline=None, max_examples=40)  # a block of the schedule takes 40 ms
@given(spans=segments, shortest=st.integers(1, 8), extra=st.integers(0, 30), seed=st.integers(0, 2**32))
def test_no_sample_leaves_its_segment(spans: tuple[tuple[int, int], ...], shortest: int, extra: int, seed: int) -> None:
    times = SourceTimes(segments=spans, min_lead_steps=shortest, max_lead_steps=shortest + extra)
    if sum(times.starts) == 0:
        with pytest.raises(UserError, match="widen the period"):
            make_sampler({"a": times}, seed=seed)
        return
    sampler = make_sampler({"a": times}, seed=seed, lead_exponent=1.8)
    for micro_batch in (g for step in range(20) for g in sampler.micro_batches(step)):
        for sample in micro_batch.samples:
            first, steps = next(span for span in spans if span[0] <= sample.time_index < sum(span))
            assert sample.time_index + sample.lead_steps < first + steps
            assert shortest <= sample.lead_steps <= shortest + extra


def test_lead_times_include_both_ends() -> None:
    sampler = make_sampler(one_source((2000,)))
    leads = Counter(s.lead_steps for step in range(200) for g in sampler.micro_batches(step) for s in g.samples)
    assert min(leads) == 1
    assert max(leads) == 28  # 168 h, which the released code of ClimaX never draws
    # 7200 draws from 28 leads: 257 each, standard deviation 16.
    assert all(abs(count - 257) < 96 for count in leads.values())


def test_larger_exponent_draws_short_leads_more_often() -> None:
    def mean_lead(exponent: float) -> float:
        sampler = make_sampler(one_source((2000,)), lead_exponent=exponent)
        leads = [s.lead_steps for step in range(100) for g in sampler.micro_batches(step) for s in g.samples]
        return sum(leads) / len(leads)

    # E[u^e] = 1/(e+1): 28·(1/2) against 28·(1/2.8) steps.
    assert mean_lead(1.0) == pytest.approx(14.5, abs=0.5)
    assert mean_lead(1.8) == pytest.approx(28 / 2.8 + 0.5, abs=0.5)


@pytest.mark.parametrize("exponent", [1.0, 1.8])
def test_stratified_leads_share_out_the_range(exponent: float) -> None:
    """360 choices, a step of 12 micro-batches of 3: one lead in every 36th; those of a micro-batch in thirds."""
    options = {"lead_exponent": exponent}
    sampler = make_sampler(one_source((10**9,), longest=360), stratified_leads=True, **options)
    plain = make_sampler(one_source((10**9,), longest=360), **options)
    leads, other = Counter[int](), 0
    for step in range(60):
        micro_batches = sampler.micro_batches(step)
        places = [[((s.lead_steps - 0.5) / 360) ** (1 / exponent) for s in g.samples] for g in micro_batches]
        if exponent == 1.0:
            assert all(sorted(int(3 * u) for u in of_one) == [0, 1, 2] for of_one in places)
            assert sorted(int(36 * u) for of_one in places for u in of_one) == list(range(36))
        else:  # whole steps blur the edges of the parts by half a step
            ordered = sorted(u for of_one in places for u in of_one)
            assert all(abs(u - (part + 0.5) / 36) < 0.5 / 36 + 0.01 for part, u in enumerate(ordered))
        leads.update(s.lead_steps for g in micro_batches for s in g.samples)
        for ours, theirs in zip(micro_batches, plain.micro_batches(step), strict=True):
            assert [s.time_index for s in ours.samples] == [s.time_index for s in theirs.samples]
            other += ours.samples != theirs.samples
    assert other > 700
    if exponent == 1.0:  # each lead alone is still uniform: the first and the last come too
        assert {1, 360} <= set(leads)


def test_a_stratified_lead_next_to_the_end_stays_in_the_range() -> None:
    sampler = make_sampler(one_source())
    almost_one = np.full(36, np.nextafter(1.0, 0.0))
    assert sampler._stratified(almost_one, np.arange(12)).max() < 1


def test_lengths_of_roll_outs_are_drawn_for_a_whole_step() -> None:
    sampler = make_sampler(one_source(longest=1), rollout_steps=(2, 4))
    drawn = [{g.rollout_steps for g in sampler.micro_batches(step)} for step in range(600)]
    assert all(len(steps) == 1 for steps in drawn)
    counts = Counter(steps.pop() for steps in drawn)
    assert set(counts) == {2, 3, 4}
    assert all(abs(count - 200) < 70 for count in counts.values())  # six standard deviations of 11.5
    fewer = sampler.without([0])  # a length belongs to its batch, not to the step
    assert [fewer.micro_batches(step)[0].rollout_steps for step in range(50)] == [
        sampler.micro_batches(step + 1)[0].rollout_steps for step in range(50)
    ]
    assert make_sampler(one_source()).micro_batches(0)[0].rollout_steps is None


def test_every_start_is_seen_once_an_epoch() -> None:
    sampler = make_sampler(one_source((40, 25)))
    starts = [s.time_index for step in range(7) for g in sampler.micro_batches(step) for s in g.samples]
    usable = {*range(39), *range(100, 124)}
    epoch = len(usable)
    assert set(starts[:epoch]) == usable
    assert set(starts[epoch : 2 * epoch]) == usable
    assert starts[:epoch] != starts[epoch : 2 * epoch]


def test_sources_are_mixed_by_weight() -> None:
    sources = {name: SourceTimes(segments=((0, 50),), min_lead_steps=1, max_lead_steps=3) for name in ("a", "b", "c")}
    sampler = make_sampler(sources, weights={"a": 2.0, "b": 1.0, "c": 1.0}, micro_batches_per_step=10)
    micro_batches: list[MicroBatch] = [g for step in range(100) for g in sampler.micro_batches(step)]
    assert Counter(g.source for g in micro_batches) == {"a": 500, "b": 250, "c": 250}
    assert len({g.key for g in micro_batches}) == 1000


@pytest.mark.parametrize(("weights", "message"), [({"z": 1.0}, "unknown source z"), ({"a": 0.0}, "must be positive")])
def test_bad_weights_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_sampler(one_source(), weights=weights)


def test_order_is_pinned() -> None:
    """Interrupted runs cannot be resumed after a change of the order: never change it by accident."""
    micro_batch = make_sampler(one_source(), micro_batch_size=2).micro_batches(11)[3]
    assert [(s.time_index, s.lead_steps) for s in micro_batch.samples] == [(3, 10), (113, 1)]
