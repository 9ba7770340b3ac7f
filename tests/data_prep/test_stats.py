"""Moments against numpy, in any grouping; channels that cannot be scaled are refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from climax_hpc.data_prep.stats import Moments, check_spread, merge_all, moments_of
from climax_hpc.errors import UserError


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=7),
    offset=st.sampled_from([0.0, 280.0, 1e5]),
    holes=st.floats(0, 0.9),
)
def test_merged_moments_equal_numpy_over_everything(sizes: list[int], offset: float, holes: float) -> None:
    rng = np.random.default_rng(len(sizes))
    parts = [offset + rng.standard_normal((size, 3, 5)) for size in sizes]
    for part in parts:
        part[rng.random(part.shape) < holes] = np.nan
    total = merge_all(moments_of(part) for part in parts)
    whole = np.concatenate(parts)
    assert total.count == np.isfinite(whole).sum()
    assert total.missing == np.isnan(whole).sum()
    if total.count:
        assert total.mean == pytest.approx(np.nanmean(whole), rel=1e-12, abs=1e-12)
        assert total.std == pytest.approx(np.nanstd(whole), rel=1e-9, abs=1e-12)
        assert (total.low, total.high) == (np.nanmin(whole), np.nanmax(whole))
        assert total.missing_share == pytest.approx(np.isnan(whole).mean())


def test_merging_in_unit_order_does_not_depend_on_who_computed_what() -> None:
    units = [np.random.default_rng(i).standard_normal((20, 8, 16)) for i in range(9)]
    finished_in_another_order = {i: moments_of(units[i]) for i in (4, 1, 8, 0, 7, 2, 3, 6, 5)}
    again = merge_all(finished_in_another_order[i] for i in range(9))
    assert again == merge_all(moments_of(unit) for unit in units)


def test_an_empty_part_changes_nothing() -> None:
    moments = moments_of(np.arange(6.0))
    assert moments.merge(Moments()) == moments == Moments().merge(moments)


def test_missing_and_constant_channels_are_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"a\.nc: 2m_temperature of S is missing .* leave it out"):
        check_spread(moments_of(np.full(9, np.nan)), "2m_temperature", "S", "a.nc")
    noise = 288 * (1 + 1e-13 * np.random.default_rng(0).standard_normal(99))  # rounding of a regridded constant
    with pytest.raises(UserError, match=r"a\.nc: 2m_temperature of S is constant \(288\).* leave it out"):
        check_spread(moments_of(noise), "2m_temperature", "S", "a.nc")
    check_spread(moments_of(1e-9 * np.arange(5.0)), "specific_humidity_50", "S", "a.nc")
