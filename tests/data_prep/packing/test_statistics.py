"""Moments against numpy; the same bits in any grouping; channels that cannot be normalised are refused."""

import json
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from climax_hpc.data_prep.packing.statistics import Moments, check_spread, merge_all, moments_of
from climax_hpc.errors import UserError


def fields(steps: int, offset: float, holes: float, dtype: type = np.float32) -> np.ndarray:
    """Noise (T, 3, 5) on an offset, with missing values."""
    rng = np.random.default_rng(steps)
    values = (offset + rng.standard_normal((steps, 3, 5))).astype(dtype)
    values[rng.random(values.shape) < holes] = np.nan
    return values


@settings(max_examples=60, deadline=None)
@given(steps=st.integers(0, 40), offset=st.sampled_from([0.0, 280.0, 1e5]), holes=st.sampled_from([0.0, 0.1, 0.9, 1.0]))
def test_moments_equal_numpy_over_all_values(steps: int, offset: float, holes: float) -> None:
    whole = fields(steps, offset, holes, np.float64)
    total = moments_of(whole)
    assert total.count == np.isfinite(whole).sum()
    assert total.missing == np.isnan(whole).sum()
    if total.count:
        assert total.mean == pytest.approx(np.nanmean(whole), rel=1e-12, abs=1e-12)
        assert total.std == pytest.approx(np.nanstd(whole), rel=1e-9, abs=1e-12)
        assert (total.low, total.high) == (np.nanmin(whole), np.nanmax(whole))
        assert total.missing_share == pytest.approx(np.isnan(whole).mean())


@settings(max_examples=60, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 30), max_size=6),
    offset=st.sampled_from([0.0, 280.0, 1e5]),
    holes=st.sampled_from([0.0, 0.2]),
    order=st.randoms(use_true_random=False),
)
def test_any_split_in_any_order_gives_the_same_bits(
    cuts: list[int], offset: float, holes: float, order: Random
) -> None:
    whole = fields(30, offset, holes)
    parts = [moments_of(part) for part in np.split(whole, sorted(cuts))]
    order.shuffle(parts)
    assert merge_all(parts) == moments_of(whole)
    assert repr(merge_all(parts).std) == repr(moments_of(whole).std)


def test_an_empty_part_changes_nothing_and_has_no_mean() -> None:
    moments = moments_of(np.arange(6.0).reshape(2, 1, 3))
    assert moments.merge(Moments()) == moments == Moments().merge(moments)
    assert np.isnan([Moments().mean, Moments().std]).all()


def test_moments_survive_json_to_the_last_bit() -> None:
    for moments in (moments_of(fields(9, 1e5, 0.3)), Moments()):
        assert Moments.from_json(json.loads(json.dumps(moments.to_json()))) == moments


def test_missing_and_constant_channels_are_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"a\.nc: 2m_temperature of S is missing .* leave it out"):
        check_spread(moments_of(np.full((1, 3, 3), np.nan)), "2m_temperature", "S", "a.nc")
    noise = 288 * (1 + 1e-8 * np.random.default_rng(0).standard_normal((11, 3, 3)))  # rounding of a regridded constant
    with pytest.raises(UserError, match=r"a\.nc: 2m_temperature of S is constant \(288\).* leave it out"):
        check_spread(moments_of(noise), "2m_temperature", "S", "a.nc")
    check_spread(moments_of(1e-9 * np.arange(5.0)[:, None, None]), "specific_humidity_50", "S", "a.nc")
