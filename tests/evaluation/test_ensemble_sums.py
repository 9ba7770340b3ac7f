"""Scores of ensembles against scoringrules, xskillscore, float64 loops and known laws; odd sizes, gaps, ties."""

import itertools

import numpy as np
import pytest
import torch
import xarray as xr

from climax_hpc.evaluation.ensemble_metrics import ENERGY_METRICS, ensemble_metrics, observed_frequency
from climax_hpc.evaluation.ensemble_sums import EnsembleSums, Thresholds
from climax_hpc.evaluation.metrics import compute_metrics
from climax_hpc.fields.grid import latitude_weights

from ..synthetic import make_grid

sr = pytest.importorskip("scoringrules", reason="scoringrules is a development dependency: pip install '.[dev]'")
xs = pytest.importorskip("xskillscore", reason="xskillscore is a development dependency: pip install '.[dev]'")
NAMES = ["geopotential_500", "2m_temperature", "temperature_850"]
SHAPE = (5, 7)
B = 3
SCALE = np.array([2.0, 0.5, 1.0])
WEIGHT = latitude_weights(make_grid(SHAPE))
PERCENTILES = (5.0, 95.0)


class Case:
    """Members, truth with gaps, thresholds with a gap; `coarse`: rounded, so that many values are equal."""

    def __init__(self, members: int, *, coarse: bool = False, seed: int = 0) -> None:
        random = np.random.default_rng([seed, members])
        self.x = random.standard_normal((B, members, len(NAMES), *SHAPE)) * SCALE[:, None, None]
        self.y = random.standard_normal((B, len(NAMES), *SHAPE)) * SCALE[:, None, None]
        if coarse:
            self.x, self.y = np.round(self.x), np.round(self.y)
        self.y[random.random(self.y.shape) < 0.2] = np.nan
        self.y[1, 2] = np.nan  # no cell of one field
        self.limits = np.stack([np.full(self.y.shape, -1.0), np.full(self.y.shape, 1.0)])
        self.limits[:, :, 0, 2, 3] = np.nan
        self.x = np.where(np.isnan(self.y)[:, None], np.nan, self.x)  # members may hold anything there
        self.w = np.where(np.isnan(self.y), 0.0, WEIGHT[:, None])

    def sums(self, *slices: slice) -> EnsembleSums:
        """Added in these parts."""
        total = EnsembleSums(NAMES, SCALE)
        for part in slices or (slice(None),):
            x, y = torch.from_numpy(self.x[part]), torch.from_numpy(self.y[part])
            limits = Thresholds(percentiles=PERCENTILES, values_QBOHW=torch.from_numpy(self.limits[:, part]))
            one = EnsembleSums(NAMES, SCALE)
            one.add(x.__getitem__, y, torch.from_numpy(WEIGHT), limits)
            total += one
        return total

    def mean(self, values: np.ndarray, w: np.ndarray | None = None) -> np.ndarray:
        """Weighted mean (B, O) over the valid cells."""
        w = self.w if w is None else w
        total, area = np.where(w > 0, values * w, 0.0).sum((-2, -1)), w.sum((-2, -1))
        return np.divide(total, area, out=np.full(area.shape, np.nan), where=area > 0)


@pytest.mark.parametrize("members", [1, 2, 3, 8])
@pytest.mark.parametrize("coarse", [False, True], ids=["continuous", "ties"])
def test_crps_is_that_of_scoringrules(members: int, coarse: bool) -> None:
    case = Case(members, coarse=coarse)
    series, x, y = case.sums().series, np.moveaxis(case.x, 1, -1), case.y
    expected = case.mean(sr.crps_ensemble(y, x, estimator="nrg"))
    np.testing.assert_allclose(series["crps"], expected, rtol=1e-12)
    np.testing.assert_allclose(series["crps"], case.mean(sr.crps_ensemble(y, x, estimator="qd")), rtol=1e-9)
    if members == 1:
        np.testing.assert_allclose(series["crps"], case.mean(np.abs(y - x[..., 0])), rtol=1e-12)
        assert np.isnan(series["fair_crps"]).all()
    else:
        np.testing.assert_allclose(series["fair_crps"], case.mean(sr.crps_ensemble(y, x, estimator="fair")), rtol=1e-11)


@pytest.mark.parametrize("members", [1, 2, 3, 8])
def test_energy_score_is_that_of_scoringrules(members: int) -> None:
    case = Case(members)
    w = case.w.min(axis=1)
    u, v = (
        np.moveaxis(case.x / SCALE[:, None, None], (1, 2), (-2, -1)),
        np.moveaxis(case.y / SCALE[:, None, None], 1, -1),
    )
    whole = w[0] > 0
    expected = (sr.es_ensemble(v[0][whole], u[0][whole], estimator="nrg") * w[0][whole]).sum() / w[0].sum()
    series = case.sums().series
    assert series["energy_score"][0, 0] == pytest.approx(expected, rel=1e-12)
    assert np.isnan(series["energy_score"][1, 0])  # one variable of forecast 1 has no cell at all
    if members > 1:
        fair = (sr.es_ensemble(v[0][whole], u[0][whole], estimator="fair") * w[0][whole]).sum() / w[0].sum()
        assert series["fair_energy_score"][0, 0] == pytest.approx(fair, rel=1e-11)


@pytest.mark.parametrize("members", [1, 2, 3, 8])
def test_brier_scores_are_those_of_scoringrules(members: int) -> None:
    case = Case(members)
    series = case.sums().series
    for q, beyond in enumerate((np.less, np.greater)):
        w = np.where(np.isnan(case.limits[q]), 0.0, case.w)
        chance = beyond(case.x, case.limits[q][:, None]).mean(axis=1)
        event = beyond(case.y, case.limits[q])
        name = f"{PERCENTILES[q]:g}"
        np.testing.assert_allclose(
            series[f"brier_{name}"], case.mean(sr.brier_score(event.astype(float), chance), w), rtol=1e-12
        )
        forecasts = np.stack([case.mean((chance == k / members) * 1.0, w) for k in range(members + 1)], axis=-1)
        np.testing.assert_allclose(series[f"forecasts_{name}"], forecasts, atol=1e-15)
        seen = np.stack([case.mean(1.0 * ((chance == k / members) & event), w) for k in range(members + 1)], axis=-1)
        np.testing.assert_allclose(series[f"events_{name}"], seen, atol=1e-15)


def test_brier_score_and_rank_histogram_are_those_of_xskillscore() -> None:
    case = Case(8)
    dims = ("start", "member", "lat", "lon")
    series = case.sums().series
    o = xr.DataArray(case.y[:, 0], dims=("start", "lat", "lon"))
    f = xr.DataArray(case.x[:, :, 0], dims=dims)
    w = xr.DataArray(case.w[:, 0], dims=("start", "lat", "lon"))
    limit = xr.DataArray(case.limits[1][:, 0], dims=("start", "lat", "lon"))
    known = w.where(limit.notnull(), 0)
    for fair, name in ((False, "brier_95"), (True, "fair_brier_95")):
        each = xs.brier_score(o > limit, f > limit, member_dim="member", fair=fair, dim=[])
        expected = (each * known).sum(("lat", "lon")) / known.sum(("lat", "lon"))
        np.testing.assert_allclose(series[name][:, 0], expected, rtol=1e-6)
    for b in range(B):
        cells = ~np.isnan(case.y[b, 0])
        flat_o = xr.DataArray(case.y[b, 0][cells], dims=("cell",))
        flat_f = xr.DataArray(case.x[b, :, 0][:, cells], dims=("member", "cell"))
        counts = np.zeros(9)
        for cell in range(flat_o.size):  # weighted: one cell at a time
            one = xs.rank_histogram(flat_o[cell : cell + 1], flat_f[:, cell : cell + 1], dim=["cell"])
            counts += one.values * case.w[b, 0][cells][cell]
        np.testing.assert_allclose(series["rank_histogram"][b, 0], counts / counts.sum(), rtol=1e-6)


@pytest.mark.parametrize("members", [1, 2, 3, 8])
def test_ties_are_spread_over_all_orders(members: int) -> None:
    """The mean over all places of the truth among equal members, cell by cell."""
    case = Case(members, coarse=True)
    expected = np.zeros((B, len(NAMES), members + 1))
    for b, o, i, j in itertools.product(range(B), range(len(NAMES)), *map(range, SHAPE)):
        if case.w[b, o, i, j]:
            below = (case.x[b, :, o, i, j] < case.y[b, o, i, j]).sum()
            equal = (case.x[b, :, o, i, j] == case.y[b, o, i, j]).sum()
            expected[b, o, below : below + equal + 1] += case.w[b, o, i, j] / (equal + 1)
    with np.errstate(invalid="ignore"):
        expected /= expected.sum(axis=-1, keepdims=True)
    found = case.sums().series["rank_histogram"]
    np.testing.assert_allclose(found, expected, atol=1e-14)
    assert (found[~np.isnan(found)] >= 0).all()


@pytest.mark.parametrize("members", [2, 3, 8])
def test_spread_and_errors_of_the_mean(members: int) -> None:
    case = Case(members)
    series = case.sums().series
    mean, variance = case.x.mean(axis=1), case.x.var(axis=1, ddof=1)
    square = (mean - case.y) ** 2
    np.testing.assert_allclose(series["square_error"], case.mean(square), rtol=1e-12)
    np.testing.assert_allclose(series["variance"], case.mean(variance), rtol=1e-12)
    np.testing.assert_allclose(series["unbiased_square_error"], case.mean(square - variance / members), rtol=1e-9)
    values = compute_metrics(ensemble_metrics(PERCENTILES).values(), series, np.ones((1, B)))
    s2, e2 = (np.nanmean(series[name], axis=0) for name in ("variance", "square_error"))
    np.testing.assert_allclose(values["spread"][0], np.sqrt(s2))
    np.testing.assert_allclose(values["spread_skill"][0], np.sqrt((members + 1) / members * s2 / e2))
    assert values.keys() == ensemble_metrics(PERCENTILES).keys()


def test_a_cell_without_truth_changes_nothing() -> None:
    case, other = Case(3), Case(3)
    other.x = np.where(np.isnan(other.y)[:, None], 1e30, other.x)
    for name, values in case.sums().series.items():
        np.testing.assert_array_equal(other.sums().series[name], values)


@pytest.mark.parametrize("members", [1, 8])
def test_parts_add_up_to_the_same_bits(members: int) -> None:
    case = Case(members)
    whole = case.sums().series
    parts = case.sums(slice(0, 1), slice(1, 3)).series
    for name, values in whole.items():
        np.testing.assert_array_equal(parts[name], values)


def test_float32_fields_give_the_same_scores() -> None:
    case = Case(8)
    rounded = EnsembleSums(NAMES, SCALE)
    x, y, w = (torch.from_numpy(a.astype(np.float32)) for a in (case.x, case.y, WEIGHT))
    rounded.add(x.__getitem__, y, w)
    for name, values in rounded.series.items():
        np.testing.assert_allclose(values, case.sums().series[name], rtol=1e-4, atol=1e-5)


def perfect(members: int, forecasts: int = 60, spread: float = 1.0) -> EnsembleSums:
    """Members and truth of one Gaussian distribution in every cell; `spread` of the members alone."""
    random, shape = np.random.default_rng(members), (20, 30)
    weight = torch.from_numpy(latitude_weights(make_grid(shape)))
    centre, y = random.standard_normal((2, forecasts, 1, *shape))
    x = centre[:, None] + spread * random.standard_normal((forecasts, members, 1, *shape))
    limits = torch.full((2, forecasts, 1, *shape), -1.5, dtype=torch.float64)
    limits[1] = 1.5
    sums = EnsembleSums(NAMES[:1], np.ones(1))
    truth = torch.from_numpy(centre + y)
    sums.add(torch.from_numpy(x).__getitem__, truth, weight, Thresholds(percentiles=PERCENTILES, values_QBOHW=limits))
    return sums


@pytest.mark.parametrize("members", [2, 3, 8])
def test_a_perfect_ensemble(members: int) -> None:
    """36 000 independent cells: standard errors are below 1 %; the CRPS of N(0, 1) is 1/√π on average."""
    series = perfect(members).series
    values = {
        name: value[0, 0]
        for name, value in compute_metrics(
            [*ensemble_metrics(PERCENTILES).values(), *ENERGY_METRICS.values()], series, np.ones((1, 60))
        ).items()
    }
    assert values["spread_skill"] == pytest.approx(1, abs=0.01)
    assert values["unbiased_spread_skill"] == pytest.approx(1, abs=0.015)
    assert values["unbiased_rmse"] == pytest.approx(1, abs=0.015)
    assert values["rmse"] == pytest.approx(np.sqrt(1 + 1 / members), abs=0.015)
    assert values["spread"] == pytest.approx(1, abs=0.01)
    assert values["fair_crps"] == pytest.approx(1 / np.sqrt(np.pi), rel=0.015)
    assert values["crps"] == pytest.approx((1 + 1 / members) / np.sqrt(np.pi), rel=0.015)
    assert values["fair_energy_score"] == pytest.approx(values["fair_crps"], rel=1e-9)  # of one variable with scale 1
    flat = series["rank_histogram"].mean(axis=0)[0]
    np.testing.assert_allclose(flat, 1 / (members + 1), atol=0.012)
    assert values["outliers"] == pytest.approx(2 / (members + 1), abs=0.015)


def test_crps_of_a_gaussian_in_closed_form() -> None:
    """Many members of N(μ, σ²): the fair CRPS is that of the distribution (Gneiting et al. 2005)."""
    random, shape = np.random.default_rng(5), (3, 4)
    mu, sigma, y = (
        random.standard_normal((1, *shape)),
        0.5 + random.random((1, *shape)),
        random.standard_normal((1, *shape)),
    )
    x = torch.from_numpy(mu + sigma * random.standard_normal((4000, 1, *shape)))
    sums = EnsembleSums(NAMES[:1], np.ones(1))
    sums.add(lambda _: x, torch.from_numpy(y[None]), torch.ones(3, dtype=torch.float64))
    assert sums.series["fair_crps"][0, 0] == pytest.approx(sr.crps_normal(y, mu, sigma).mean(), rel=0.01)


def test_reliability_of_a_sure_and_of_a_perfect_ensemble() -> None:
    """Small spread is too sure: where nearly all members are in the event, it happens less often than they say."""
    weights = np.ones((1, 60))
    exact, sure = (observed_frequency(perfect(8, spread=spread).series, 95.0, weights)[0, 0] for spread in (1.0, 0.3))
    assert sure[8] < exact[8]
    assert sure[0] > exact[0]
    off_exact, off_sure = (np.abs(observed - np.arange(9) / 8).mean() for observed in (exact, sure))
    assert off_sure > 1.5 * off_exact
    assert (np.diff(exact) > 0).all()
