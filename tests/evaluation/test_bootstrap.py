"""Bootstrap intervals: hand-derived draws, their coverage on noise of known mean, pairing, gaps and missing values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from climax_hpc.evaluation.bootstrap import Bootstrap, LeadIntervals, draw_blocks, runs_of, wilks_block
from climax_hpc.evaluation.metrics import METRICS, RMSE, SERIES, compute_metrics


def series_of(mse: np.ndarray) -> dict[str, np.ndarray]:
    """A series whose squared errors are given (N, O); the rest is made of ones."""
    return {name: np.ones_like(mse) for name in SERIES} | {"square_error": mse}


def test_metrics_by_hand() -> None:
    """Two forecasts with squared errors 1 and 9, the second drawn three times."""
    series = {name: np.array([[1.0], [9.0]]) for name in ("square_error", "absolute_error", "error", "truth_mean")}
    series |= {"product": np.array([[2.0], [3.0]]), "forecast_square": np.array([[4.0], [1.0]])}
    series |= {"truth_square": np.array([[1.0], [16.0]])}
    found = {
        name: value[:, 0]
        for name, value in compute_metrics(METRICS.values(), series, np.array([[1.0, 1.0], [1.0, 3.0]])).items()
    }
    np.testing.assert_allclose(found["rmse"], [np.sqrt(5), np.sqrt(7)])
    np.testing.assert_allclose(found["mae"], [5, 7])
    np.testing.assert_allclose(found["rmse_climax"], [2, 2.5])  # mean of 1 and 3
    np.testing.assert_allclose(found["acc_climax"], [2.5 / np.sqrt(2.5 * 8.5), 2.75 / np.sqrt(1.75 * 12.25)])
    np.testing.assert_allclose(found["activity"], np.sqrt([2.5, 1.75]))
    np.testing.assert_allclose(found["activity_truth"], np.sqrt([8.5, 12.25]))


def test_undefined_forecasts_do_not_count() -> None:
    found = compute_metrics([RMSE], series_of(np.array([[4.0, np.nan], [np.nan, np.nan]])), np.ones((1, 2)))
    assert found["rmse"][0].tolist()[0] == 2
    assert np.isnan(found["rmse"][0, 1])


def test_one_block_per_forecast_is_the_plain_bootstrap() -> None:
    weight_RN = draw_blocks([50], 1, 4000)
    assert (weight_RN.sum(axis=1) == 50).all()
    np.testing.assert_allclose(weight_RN.mean(axis=0), 1, atol=0.1)
    # Variance of the mean of 50 independent values.
    values = np.random.default_rng(0).standard_normal(50)
    assert (weight_RN @ values / 50).std() == pytest.approx(values.std() / np.sqrt(50), rel=0.05)


@given(
    runs=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    block=st.integers(1, 12),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_blocks_are_whole_and_stay_within_their_run(runs: list[int], block: int, seed: int) -> None:
    weight_RN = draw_blocks(runs, block, 5, seed)
    assert weight_RN.shape == (5, sum(runs))
    assert (weight_RN >= 0).all()
    assert (weight_RN == np.round(weight_RN)).all()
    if block >= max(runs):  # every block is a whole run, so its members are drawn equally often
        for part in np.split(weight_RN, np.cumsum(runs)[:-1], axis=1):
            assert (part == part[:, :1]).all()


def test_runs() -> None:
    assert runs_of([3, 4, 5, 9, 10, 20]) == [3, 2, 1]
    assert runs_of([7]) == [1]


def test_block_grows_with_autocorrelation() -> None:
    random = np.random.default_rng(1)
    noise = random.standard_normal(400)
    red = np.zeros(400)
    for t in range(1, 400):
        red[t] = 0.9 * red[t - 1] + noise[t]
    assert wilks_block(noise, [400]) <= 2
    assert 15 < wilks_block(red, [400]) < 60
    assert wilks_block(red, [10] * 40) <= 10
    assert wilks_block(np.ones(8), [8]) == 1


def coverage(phi: float, block_steps: int | None) -> float:
    """Share of 400 experiments whose 90 % interval holds the true mean squared error of red noise."""
    random = np.random.default_rng(2)
    noise = random.standard_normal((160, 400)) * np.sqrt(1 - phi**2)
    values = np.empty((160, 400))
    values[0] = random.standard_normal(400)
    for t in range(1, 160):
        values[t] = phi * values[t - 1] + noise[t]
    bootstrap = Bootstrap(resamples=300, confidence=0.9, block_steps=block_steps)
    found = LeadIntervals({"m": series_of(10 + values)}, list(range(160)), bootstrap, [RMSE])
    intervals = [found.interval("m", "rmse", place) or [0.0, 0.0] for place in range(400)]
    return sum(low**2 <= 10 <= high**2 for low, high in intervals) / 400


def test_coverage_needs_blocks() -> None:
    """Intervals of 90 % cover the truth nearly as often; without blocks they are far too narrow."""
    with_blocks, without = coverage(0.8, None), coverage(0.8, 1)
    print(f"90 % intervals hold the truth in {with_blocks:.0%} of the cases with blocks, in {without:.0%} without")
    assert with_blocks > 0.75
    assert without < 0.6
    assert 0.82 < coverage(0.0, 1) < 0.96


def test_pairing_removes_what_both_share() -> None:
    random = np.random.default_rng(3)
    weather = 10 + 5 * np.abs(random.standard_normal((200, 1)))
    a, b = series_of(weather), series_of(weather * 1.02 + 0.01 * random.random((200, 1)))
    found = LeadIntervals({"a": a, "b": b}, list(range(200)), Bootstrap(resamples=500, confidence=0.95), [RMSE])
    low, high = found.interval("a", "rmse", 0) or (0, 0)
    assert low < (found.value("b", "rmse", 0) or 0) < high  # unpaired, the two cannot be distinguished
    difference = found.difference("b", 0, "a", 0)
    assert isinstance(difference["interval"], list)
    assert difference["interval"][0] > 0
    assert difference["relative"] == pytest.approx(np.sqrt(1.02) - 1, rel=0.05)
    same = found.difference("a", 0, "a", 0)
    assert same["rmse"] == 0
    assert same["interval"] == [0, 0]
