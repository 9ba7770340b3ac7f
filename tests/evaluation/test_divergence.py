"""The divergence of forecast ensembles from ensembles of known laws, against closed forms and plain sums."""

import itertools
import math

import numpy as np
import pytest
import torch

from climax_hpc.evaluation.divergence import (
    DIVERGENCE,
    SERIES,
    DivergenceSums,
    energy_distance,
    mean_apart,
    mean_apart_from,
    mean_spectra,
    variance_by_wavenumber,
)
from climax_hpc.evaluation.metrics import compute_metrics

LAT = np.linspace(-75.0, 75.0, 6)
WEIGHT = np.cos(np.deg2rad(LAT))


def sums_of(x: np.ndarray, y: np.ndarray, valid: np.ndarray | None = None, batch: int = 1000) -> DivergenceSums:
    """Sums of members (N, M, O, H, W), added in batches."""
    sums = DivergenceSums([f"v{o}" for o in range(x.shape[2])], LAT, WEIGHT)
    valid = np.ones(x[:, 0].shape, bool) if valid is None else valid
    for first in range(0, len(x), batch):
        part = slice(first, first + batch)
        sums.add(*(torch.from_numpy(one[part]) for one in (x, y, valid)))
    return sums


def metrics_of(sums: DivergenceSums, place: int = 0) -> dict[str, float]:
    ones = np.ones((1, len(sums.series["apart"])))
    found = compute_metrics(DIVERGENCE.values(), sums.series, ones)
    return {name: float(values[0, place]) for name, values in found.items()}


def normal(seed: int, members: int, scale: float = 1.0, shift: float = 0.0, starts: int = 300) -> np.ndarray:
    fields = np.random.default_rng(seed).standard_normal((starts, members, 1, len(LAT), 9))
    return fields * scale + shift


# ---------------------------------------------------------------- known laws


def gaussian_crps_difference(scale: float, shift: float) -> float:
    """Of N(shift, scale²) from N(0, 1): E|x - y| - E|x - x'|/2 - E|y - y'|/2, folded normal means."""

    def folded(mean: float, deviation: float) -> float:
        z = mean / deviation
        return deviation * math.sqrt(2 / math.pi) * math.exp(-z * z / 2) + mean * math.erf(z / math.sqrt(2))

    return folded(shift, math.hypot(1, scale)) - (1 + scale) / math.sqrt(math.pi)


@pytest.mark.parametrize(("members", "truths"), [(2, 2), (3, 7), (8, 6), (5, 2)])
def test_equal_laws_have_no_divergence(members: int, truths: int) -> None:
    found = metrics_of(sums_of(normal(1, members), normal(2, truths)))
    assert found["crps_difference"] == pytest.approx(0, abs=0.01)
    assert found["energy_distance"] == pytest.approx(0, abs=0.01)
    assert found["spread_ratio"] == pytest.approx(1, abs=0.02)
    assert found["spread_skill"] == pytest.approx(1, abs=0.04)
    assert found["crps_of_truth"] == pytest.approx(1 / math.sqrt(math.pi), abs=0.01)
    assert math.isnan(found["mean_shift"]) or found["mean_shift"] < 0.1


@pytest.mark.parametrize(("scale", "shift"), [(0.5, 0.0), (2.0, 0.0), (1.0, 0.8), (0.7, -0.4)])
def test_scaled_and_shifted_laws_have_their_known_divergence(scale: float, shift: float) -> None:
    found = metrics_of(sums_of(normal(3, 6, scale, shift), normal(4, 5)))
    assert found["crps_difference"] == pytest.approx(gaussian_crps_difference(scale, abs(shift)), abs=0.015)
    assert found["spread_ratio"] == pytest.approx(scale, rel=0.02)
    assert found["spread_skill"] == pytest.approx(scale / math.sqrt(1 + shift**2), rel=0.03)
    if shift:
        assert found["mean_shift"] == pytest.approx(abs(shift), rel=0.03)


def test_one_forecast_is_a_distribution_without_spread() -> None:
    found = metrics_of(sums_of(np.zeros((300, 1, 1, len(LAT), 9)), normal(5, 6)))
    assert found["crps"] == pytest.approx(math.sqrt(2 / math.pi), abs=0.01)  # the MAE of the mean
    assert found["crps_difference"] == pytest.approx(math.sqrt(2 / math.pi) - 1 / math.sqrt(math.pi), abs=0.01)
    assert found["spread_ratio"] == 0


def test_the_energy_distance_sees_patterns_that_single_cells_do_not_show() -> None:
    """Cells of the same law each, but the forecast's rise and fall together."""
    together = np.broadcast_to(np.random.default_rng(6).standard_normal((400, 6, 1, 1, 1)), (400, 6, 1, len(LAT), 9))
    found = metrics_of(sums_of(np.ascontiguousarray(together), normal(7, 6, starts=400)))
    assert found["crps_difference"] == pytest.approx(0, abs=0.03)
    assert found["energy_distance"] > 0.1


# ---------------------------------------------------------------- plain sums, missing values, batches


@pytest.mark.parametrize("members", [1, 2, 3, 5, 8])
def test_pairs_are_those_of_plain_sums(members: int) -> None:
    generator = np.random.default_rng(8)
    x, y = generator.standard_normal((2, members, 3, 4, 5)), generator.standard_normal((2, 3, 3, 4, 5))
    pairs = list(itertools.combinations(range(members), 2))
    plain = np.mean([abs(x[:, a] - x[:, b]) for a, b in pairs], axis=0) if pairs else np.zeros_like(x[:, 0])
    np.testing.assert_allclose(mean_apart(torch.from_numpy(x)), plain, atol=1e-14)
    across = np.mean([abs(x[:, a] - y[:, b]) for a in range(members) for b in range(3)], axis=0)
    np.testing.assert_allclose(mean_apart_from(torch.from_numpy(x), torch.from_numpy(y)), across, atol=1e-14)


def test_the_energy_distance_is_that_of_plain_norms() -> None:
    generator = np.random.default_rng(9)
    x, y = 1e4 + generator.standard_normal((1, 4, 2, 15)), 1e4 + generator.standard_normal((1, 3, 2, 15))
    w = generator.random((1, 2, 15))
    w /= w.sum(axis=-1, keepdims=True)

    def norm(a: np.ndarray) -> np.ndarray:
        return np.sqrt((w * a**2).sum(axis=-1))

    across = np.mean([norm(x[:, a] - y[:, b]) for a in range(4) for b in range(3)], axis=0)
    own = np.mean([norm(x[:, a] - x[:, b]) for a, b in itertools.combinations(range(4), 2)], axis=0)
    true = np.mean([norm(y[:, a] - y[:, b]) for a, b in itertools.combinations(range(3), 2)], axis=0)
    found = energy_distance(*(torch.from_numpy(one) for one in (x, y, w)))
    np.testing.assert_allclose(found, 2 * across - own - true, rtol=1e-9)


def test_a_missing_cell_is_as_if_it_were_not_there_and_batches_change_nothing() -> None:
    x, y = normal(10, 4, starts=7), normal(11, 3, starts=7)
    x[2, 1, 0, 3, 4] = np.nan
    y[5, 0, 0, 0, 0] = np.nan
    valid = np.ones(x[:, 0].shape, bool)
    valid[:, :, 1, 2] = False
    x[:, :, 0, 1, 2] = 1e9  # not valid: may hold anything
    whole, parts = sums_of(x, y, valid), sums_of(x, y, valid, batch=2)
    for name in SERIES:
        assert np.isfinite(whole.series[name]).all()
        np.testing.assert_array_equal(whole.series[name], parts.series[name])
    keep = np.ones((len(LAT), 9), bool)
    keep[3, 4] = keep[1, 2] = False
    weight = np.broadcast_to(WEIGHT[:, None], keep.shape)[keep]
    cells = np.abs(x[2][:, None, 0][..., keep] - y[2][None, :, 0][..., keep]).mean(axis=(0, 1))
    assert whole.series["apart"][2, 0] == pytest.approx((cells * weight).sum() / weight.sum())


def test_a_start_without_a_valid_cell_is_left_out() -> None:
    x, y = normal(12, 4, starts=5), normal(13, 3, starts=5)
    valid = np.ones(x[:, 0].shape, bool)
    valid[3] = False
    sums, rest = sums_of(x, y, valid), sums_of(np.delete(x, 3, 0), np.delete(y, 3, 0))
    assert np.isnan(sums.series["energy"][3]).all()
    assert metrics_of(sums) == pytest.approx(metrics_of(rest), nan_ok=True)


def test_sums_of_parts_add_up() -> None:
    x, y = normal(14, 3, starts=6), normal(15, 3, starts=6)
    total = sums_of(x[:4], y[:4])
    total += sums_of(x[4:], y[4:])
    for name, values in sums_of(x, y).series.items():
        np.testing.assert_array_equal(total.series[name], values)
    assert total.spectra["truth"].shape == (6, 1, 5)


# ---------------------------------------------------------------- by wavenumber


@pytest.mark.parametrize("width", [8, 9])
def test_the_variance_by_wavenumber_adds_up_to_the_variance(width: int) -> None:
    members = np.random.default_rng(16).standard_normal((2, 5, 3, 4, width))
    weight = np.array([1.0, 2.0, 3.0, 4.0])
    found = variance_by_wavenumber(torch.from_numpy(members), torch.from_numpy(weight))
    assert found.shape == (2, 3, width // 2 + 1)
    plain = (members.var(axis=1, ddof=1).mean(axis=-1) * weight).sum(axis=-1) / weight.sum()
    np.testing.assert_allclose(found.sum(dim=-1), plain)
    members[0, 2, 1, 3, 0] = np.nan
    left = variance_by_wavenumber(torch.from_numpy(members), torch.from_numpy(weight))
    rows = (members[0].var(axis=0, ddof=1).mean(axis=-1) * weight)[1, :3].sum() / weight[:3].sum()
    assert float(left[0, 1].sum()) == pytest.approx(rows)
    assert bool(torch.isnan(variance_by_wavenumber(torch.full((1, 2, 1, 2, 8), torch.nan), torch.ones(2))).all())


def test_the_ratio_by_wavenumber_shows_the_scale_that_is_missing() -> None:
    x, y = normal(17, 6, starts=200), normal(18, 6, starts=200)
    smooth = np.fft.rfft(x, axis=-1)
    smooth[..., 3:] *= 0.5
    sums = sums_of(np.fft.irfft(smooth, n=9, axis=-1), y)
    found = mean_spectra(sums.spectra, np.ones((1, 200)))["ratio"][0, 0]
    np.testing.assert_allclose(found, [1, 1, 1, 0.25, 0.25], rtol=0.1)
