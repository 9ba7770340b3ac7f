"""The calibration of ensembles: its arithmetic against numpy, and the scores that it gives in the period of the fit."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from climax_hpc.evaluation.ensemble_metrics import ensemble_metrics
from climax_hpc.evaluation.ensemble_sums import EnsembleSums
from climax_hpc.evaluation.ensembles.calibration_sums import CalibrationSums, blocks_of
from climax_hpc.evaluation.metrics import ForecastMeans
from climax_hpc.fields.annual_cycle import annual_cycle
from climax_hpc.inference.calibration import Calibration

Array = NDArray[np.float64]
SHAPE, WEIGHT = (2, 5, 7), np.array([0.2, 1.0, 1.7, 1.1, 0.0])
BIAS = np.array([3.0, -1.0])[:, None, None] * np.linspace(-1, 2, 35).reshape(5, 7)


def forecasts(number: int, members: int, spread: float, seed: int = 0) -> tuple[Array, Array]:
    """Members (N, M, O, H, W) and truth (N, O, H, W): of one distribution but for a bias and a factor of the spread."""
    random = np.random.default_rng(seed)
    centre = random.standard_normal((number, 1, *SHAPE)) * 5
    drawn = random.standard_normal((number, members + 1, *SHAPE))
    mean = drawn[:, :-1].mean(axis=1, keepdims=True)
    x = centre + BIAS + mean + spread * (drawn[:, :-1] - mean)
    return x, (centre[:, 0] + drawn[:, -1])


def fitted(x_NMOHW: Array, y_NOHW: Array, per_block: int = 1, days: Sequence[int] | None = None) -> Calibration:
    """`days`: of the year; all on one by default, so that there is no cycle."""
    of_N = [0] * len(x_NMOHW) if days is None else list(days)
    sums = CalibrationSums(torch.from_numpy(WEIGHT), torch.from_numpy(annual_cycle(np.array(of_N))))
    for n, (x, y) in enumerate(zip(torch.from_numpy(x_NMOHW), torch.from_numpy(y_NOHW), strict=True)):
        sums.add(x, y, day=of_N[n], block=n // per_block)
    return sums.calibration()


def scores(x_NMOHW: Array, y_NOHW: Array) -> dict[str, Array]:
    """Scores (O,) of the evaluation by name."""
    sums = EnsembleSums(("a", "b"), np.ones(2))
    x = torch.from_numpy(x_NMOHW)
    sums.add(lambda n: x[n], torch.from_numpy(y_NOHW), torch.from_numpy(WEIGHT))
    means = ForecastMeans(sums.series, np.full((1, len(x)), 1 / len(x)))
    return {name: metric.compute(means)[0] for name, metric in ensemble_metrics(()).items()}


def mean_error(x_NMOHW: Array, y_NOHW: Array) -> Array:
    """Mean error (O, H, W) of the ensemble mean."""
    found: Array = np.nanmean(x_NMOHW.mean(axis=1) - y_NOHW, axis=0)
    return found


def applied(calibration: Calibration, x_NMOHW: Array, days: Sequence[int] | None = None) -> Array:
    of_N = [0] * len(x_NMOHW) if days is None else days
    members_N = torch.from_numpy(x_NMOHW)
    found: Array = np.stack([calibration.apply(x, day).numpy() for x, day in zip(members_N, of_N, strict=True)])
    return found


def expected_bias(x_NMOHW: Array, y_NOHW: Array, per_block: int, days: Sequence[int]) -> tuple[Array, Array]:
    """Bias (N, O, H, W) of every forecast and coefficients (K, O, H, W), cell by cell from all forecasts at once."""
    phi_NK = annual_cycle(np.array(days))[list(days)]
    error, valid = x_NMOHW.mean(axis=1) - y_NOHW, np.isfinite(y_NOHW)
    share = valid / (valid * WEIGHT[:, None]).sum(axis=(2, 3), keepdims=True)
    error = np.where(valid, error, 0.0)
    number, kinds = len(x_NMOHW), phi_NK.shape[1]
    blocks = share.reshape(-1, per_block, *SHAPE).sum(axis=1)
    with np.errstate(invalid="ignore"):
        steps = np.diff((share * error).reshape(-1, per_block, *SHAPE).sum(axis=1) / blocks, axis=0)
    found = np.full((kinds, *SHAPE), np.nan)
    for o in range(SHAPE[0]):
        both = np.isfinite(steps[:, o]) * WEIGHT[:, None]
        of_block = np.mean((both * np.nan_to_num(steps[:, o]) ** 2).sum(axis=(1, 2)) / both.sum(axis=(1, 2))) / 2
        chance = of_block * (phi_NK.reshape(-1, per_block, kinds).sum(axis=1) ** 2).sum(axis=0) / number**2
        total = share[:, o].sum(axis=0)
        cell = total * WEIGHT[:, None]
        weights = [share[:, o] * phi_NK[:, k, None, None] for k in range(kinds)]
        with np.errstate(invalid="ignore"):
            alone = [(w * error[:, o]).sum(axis=0) / total for w in weights]
            mean = [0 * total, *(alone[0] * w.sum(axis=0) / total for w in weights[1:])]
        besides = [c - m for c, m in zip(alone, mean, strict=True)]
        full, area = (1 / (valid[:, o] * WEIGHT[:, None]).sum(axis=(1, 2))).sum(), (cell > 0).T @ WEIGHT
        more = full * area.sum() / number
        true = [max(np.nansum(cell * c**2) / number - more * v, 0.0) for c, v in zip(besides, chance, strict=True)]
        kept = [k for k in range(kinds) if true[k] > 0]
        ridge = np.diag([full * chance[k] / true[k] for k in kept])
        for h, w in zip(*np.nonzero(total > 0), strict=True):
            some_NK, s_N = phi_NK[:, kept], share[:, o, h, w]
            normal = some_NK.T @ (s_N[:, None] * some_NK) + ridge
            found[:, o, h, w] = 0.0
            found[kept, o, h, w] = np.linalg.solve(normal, some_NK.T @ (s_N * error[:, o, h, w]))
    return np.einsum("nk,kohw->nohw", phi_NK, found), found


@pytest.mark.parametrize(("members", "days"), [(2, [50] * 12), (3, [30 * n for n in range(12)]), (8, range(5, 65, 5))])
def test_as_numpy_computes_it_from_all_forecasts_at_once(members: int, days: Sequence[int]) -> None:
    x, y = forecasts(12, members, 0.4)
    x += 2 * np.cos(np.array(days) / 58)[:, None, None, None, None]
    y[1:5, 0, 1:3, 2:6] = np.nan  # missing at times
    y[:, 1, 0, :2] = np.nan  # and always
    found = fitted(x, y, per_block=2, days=days)
    bias, coefficients = expected_bias(x, y, 2, days)
    np.testing.assert_allclose(found.bias_KOHW, coefficients, rtol=1e-9, atol=1e-12)
    assert len(coefficients) == min(3, len(set(days)))
    assert int(torch.isnan(found.bias_KOHW[0]).sum()) == 2
    error, valid = x.mean(axis=1) - y, np.isfinite(y)
    weight = valid * WEIGHT[:, None]
    weight = weight / weight.sum(axis=(2, 3), keepdims=True)
    square = np.where(valid, weight * (error - bias) ** 2, 0).sum(axis=(2, 3)).mean(axis=0)
    variance = np.where(valid, weight * x.var(axis=1, ddof=1), 0).sum(axis=(2, 3)).mean(axis=0)
    np.testing.assert_allclose(found.square_error_O, square, rtol=1e-9)
    np.testing.assert_allclose(found.variance_O, variance, rtol=1e-12)
    factor = np.sqrt(members / (members + 1) * square / variance)
    np.testing.assert_allclose(found.factor(members), factor, rtol=1e-9)
    centre, s = x[3].mean(axis=0), factor[:, None, None]
    expected = centre - bias[3] + s * (x[3] - centre)
    np.testing.assert_allclose(applied(found, x[3:4], days[3:4])[0], expected, rtol=1e-9)


@pytest.mark.parametrize(("members", "spread"), [(2, 0.3), (4, 2.5), (8, 0.7)])
def test_no_bias_and_a_fitting_spread_in_the_period_of_the_fit(members: int, spread: float) -> None:
    x, y = forecasts(30, members, spread)
    y[3:9, 1, 2:, 1:4] = np.nan
    before, calibrated = scores(x, y), applied(fitted(x, y), x)
    after = scores(calibrated, y)
    assert (abs(before["spread_skill"] - 1) > 0.1).all()
    np.testing.assert_allclose(after["spread_skill"], 1, rtol=1e-9)
    for name in ("rmse", "fair_crps"):
        assert (after[name] < before[name]).all()
    left = np.abs(mean_error(calibrated, y)).max() / np.abs(mean_error(x, y)).max()
    assert left < 0.1  # what is taken for chance


def test_a_mean_error_by_chance_is_no_bias() -> None:
    """Blocks of ten forecasts share one error, so that 60 forecasts are six: their mean error says nothing."""
    random = np.random.default_rng(5)
    shared = np.repeat(random.standard_normal((6, 1, *SHAPE)), 10, axis=0)
    y = random.standard_normal((60, *SHAPE))
    x = y[:, None] + shared + 0.1 * random.standard_normal((60, 4, *SHAPE))
    by_chance = np.abs(mean_error(x, y)).mean()
    assert by_chance > 0.2
    assert np.abs(fitted(x, y, per_block=10).bias(0).numpy()).mean() < 0.35 * by_chance
    assert np.abs(fitted(x, y).bias(0).numpy()).mean() > 0.8 * by_chance  # as if all 60 were independent
    with_bias = fitted(x + 5 * BIAS, y, per_block=10).bias(0)
    np.testing.assert_allclose(with_bias, mean_error(x + 5 * BIAS, y), rtol=0.02)


def test_cells_that_lack_a_truth_at_times_change_little_in_others() -> None:
    """The error is chance alone; the right half of the cells has a truth in every fourth block."""
    random = np.random.default_rng(3)
    shared = np.repeat(random.standard_normal((24, 1, *SHAPE)), 5, axis=0)
    x, y = shared + 1e-3 * random.standard_normal((120, 3, *SHAPE)), np.zeros((120, *SHAPE))
    lacking = np.repeat(random.random((24, *SHAPE)) > 0.25, 5, axis=0)
    lacking[..., :4] = False
    found = fitted(x, np.where(lacking, np.nan, y), per_block=5).bias(0).numpy()
    assert np.abs(found[..., :4]).mean() < 0.2 * np.abs(mean_error(x, y)[..., :4]).mean()


@pytest.mark.parametrize("some", [range(20, 30), [5]])
def test_truth_in_one_block_tells_nothing_of_other_days(some: Sequence[int]) -> None:
    days = list(range(0, 360, 3))
    x, y = forecasts(len(days), 3, 0.5)
    y[[n for n in range(len(days)) if n not in some], 1] = np.nan
    found = fitted(x, y, 10, days)
    for day in (0, 75, 300):
        np.testing.assert_allclose(found.bias(day)[1], mean_error(x, y)[1], rtol=1e-9)
    assert torch.equal(found.bias_KOHW[:, 0], fitted(*forecasts(len(days), 3, 0.5), 10, days).bias_KOHW[:, 0])


def test_blocks_without_a_truth_are_left_out() -> None:
    """A variable with a truth in every second block has the same calibration as without the others."""
    days = list(range(0, 360, 3))
    x, y = forecasts(len(days), 3, 0.5)
    x += 3 * np.repeat(np.random.default_rng(1).standard_normal((12, 1, *SHAPE)), 10, axis=0)
    some = [n for n in range(len(days)) if n // 10 % 2 == 0]
    alone = fitted(x[some], y[some], 10)
    y[[n for n in range(len(days)) if n not in some], 1] = np.nan
    np.testing.assert_allclose(fitted(x, y, 10).bias(0)[1], alone.bias(0)[1], rtol=1e-9)


def with_a_cycle(days: Sequence[int], seed: int) -> tuple[Array, Array, Array]:
    """Members, truth and the bias (N, O, H, W), which is another one in winter than in summer."""
    x, y = forecasts(len(days), 4, 0.5, seed)
    bias = BIAS * np.cos(2 * np.pi * (np.array(days) - 20) / 366)[:, None, None, None]
    return x - BIAS + bias[:, None], y, bias


@pytest.mark.parametrize("days", [list(range(0, 366, 2)), [*range(289, 366), *range(74)]])
def test_the_bias_of_a_calendar_day_is_found(days: list[int]) -> None:
    x, y, _ = with_a_cycle(days, seed=0)
    y[: len(days) // 3, 0, 0, 4] = np.nan  # a cell without the first months
    found = fitted(x, y, 10, days)
    np.testing.assert_allclose(scores(applied(found, x, days), y)["spread_skill"], 1, rtol=1e-9)
    other, truth, bias = with_a_cycle(days, seed=1)
    error = applied(found, other, days).mean(axis=1) - (other.mean(axis=1) - bias)
    assert error.std() < 0.2 * bias.std()
    assert np.abs(error[:, 0, 0, 4]).max() < 0.6 * np.abs(bias[:, 0, 0, 4]).max()
    whole = fitted(x, y, 10).apply
    without = np.stack([whole(one, 0).numpy() for one in torch.from_numpy(other)])
    assert (scores(applied(found, other, days), truth)["fair_crps"] < scores(without, truth)["fair_crps"]).all()


def test_a_day_of_another_season_has_the_bias_of_the_nearest_one() -> None:
    days = [*range(289, 366), *range(74)]
    found = fitted(*with_a_cycle(days, seed=0)[:2], 10, days)
    assert torch.equal(found.bias(120), found.bias(73))
    assert torch.equal(found.bias(250), found.bias(289))
    assert not torch.equal(found.bias(10), found.bias(73))


def test_an_error_that_is_chance_alone_leaves_the_members_where_they_are() -> None:
    y = np.zeros((4, *SHAPE))
    x = np.repeat(np.array([1.0, -1.0, 2.0, -2.0])[:, None, None, None, None] * np.ones((1, 1, *SHAPE)), 2, axis=1)
    found = fitted(x, y)
    assert (found.bias(0) == 0).all()
    np.testing.assert_allclose(found.square_error_O, 2.5, rtol=1e-12)


@pytest.mark.parametrize(
    ("hours", "expected"),
    [
        ([24.0 * day for day in range(0, 150, 30)], [0, 2, 4, 6, 7]),
        ([0.0, 6.0, 12.0, 18.0, 24.0], [0, 1, 2, 3, 3]),
        ([48.0, 48.0], [0, 0]),
    ],
)
def test_blocks_are_half_months_or_quarters_of_a_short_period(hours: list[float], expected: list[int]) -> None:
    assert blocks_of(hours) == expected


def test_another_period_finds_the_bias_and_the_factor_that_were_put_in() -> None:
    found = fitted(*forecasts(400, 4, 0.5))
    np.testing.assert_allclose(found.bias(0), BIAS, atol=0.28)  # 5 standard deviations of a mean of 400
    np.testing.assert_allclose(found.factor(4), 2.0, rtol=0.03)
    x, y = forecasts(200, 4, 0.5, seed=1)
    np.testing.assert_allclose(scores(applied(found, x), y)["spread_skill"], 1, atol=0.03)


@pytest.mark.parametrize("others", [2, 3, 16])
def test_the_factor_for_another_number_of_members(others: int) -> None:
    """Too narrow about the true mean by a factor of 2: for M members s² = (4 M + 1) / (M + 1)."""
    random = np.random.default_rng(2)
    y, x = random.standard_normal((400, *SHAPE)), 0.5 * random.standard_normal((400, 5, *SHAPE))
    found = fitted(x, y).factor(others)
    np.testing.assert_allclose(found, np.sqrt((4 * others + 1) / (others + 1)), rtol=0.03)
    perfect = fitted(*forecasts(400, 5, 1.0)).factor(others)
    np.testing.assert_allclose(perfect, 1, rtol=0.03)


def test_equal_members_stay_equal() -> None:
    x, y = forecasts(12, 3, 0.0)
    found = fitted(x, y)
    calibrated = applied(found, x)
    np.testing.assert_allclose(calibrated.std(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(mean_error(calibrated, y), mean_error(x, y) - found.bias(0).numpy(), atol=1e-12)


def test_the_type_of_the_members_stays() -> None:
    x, y = forecasts(12, 3, 0.5)
    calibrated = fitted(x, y).apply(torch.from_numpy(x[0]).float(), 0)
    assert calibrated.dtype == torch.float32
    np.testing.assert_allclose(calibrated, applied(fitted(x, y), x[:1])[0], rtol=1e-4, atol=1e-4)
