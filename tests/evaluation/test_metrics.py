"""Scores against hand-derived integrals, brute force in plain Python loops, and degenerate fields."""

import math
from typing import Any

import numpy as np
import pytest

from climax_hpc.evaluation.accumulators import ScoreSums, Truth, as_tensor
from climax_hpc.evaluation.distributions import DISTRIBUTION_METRICS
from climax_hpc.evaluation.metrics import METRICS, Metric
from climax_hpc.evaluation.nrmse import PROJECTION_METRICS
from climax_hpc.fields.grid import latitude_weights, regular_grid

T2M, Z500 = "2m_temperature", "geopotential_500"


def truth(fields: Any, *, climatology: Any = 0.0, valid: Any = True, weight_H: Any = None) -> Truth:
    fields = np.asarray(fields, np.float64)
    return Truth.of(
        truth_BOHW=fields,
        climatology_BOHW=np.broadcast_to(np.asarray(climatology, np.float64), fields.shape),
        valid_BOHW=np.broadcast_to(np.asarray(valid), fields.shape),
        weight_H=np.ones(fields.shape[-2]) if weight_H is None else weight_H,
    )


def score(forecast: Any, against: Truth) -> dict[str, float | None]:
    sums = ScoreSums([T2M])
    sums.add(as_tensor(np.broadcast_to(np.asarray(forecast, np.float64), against.truth_BOHW.shape)), against)
    return sums.scores()[T2M]


def random_case(seed: int, shape: tuple[int, ...] = (5, 2, 7, 9)) -> tuple[Any, Truth]:
    random = np.random.default_rng(seed)
    forecast, fields, climatology = random.standard_normal((3, *shape))
    valid = random.random(shape) > 0.3
    return as_tensor(forecast), truth(
        fields, climatology=climatology, valid=valid, weight_H=random.random(shape[-2]) + 0.1
    )


@pytest.mark.parametrize("offset", [2.5, -2.5])
def test_constant_offset(offset: float) -> None:
    fields = np.random.default_rng(0).standard_normal((3, 1, 8, 16))
    found = score(fields + offset, truth(fields, weight_H=latitude_weights(regular_grid(22.5))))
    assert found["rmse"] == pytest.approx(abs(offset), rel=1e-12)
    assert found["mae"] == pytest.approx(abs(offset), rel=1e-12)
    assert found["bias"] == pytest.approx(offset, rel=1e-12)


def test_error_cos_latitude_has_its_integrals() -> None:
    """Over the sphere <cos² φ> = ∫cos³φ dφ / ∫cos φ dφ = 2/3 and <cos φ> = π/4."""
    grid = regular_grid(0.5)
    error = np.cos(np.deg2rad(grid.lat))[:, None].repeat(4, axis=1)[None, None]
    found = score(error, truth(np.zeros_like(error), weight_H=latitude_weights(grid)))
    # The midpoint rule on 360 rows is good to h²/24 ≈ 3e-6.
    assert found["rmse"] == pytest.approx(math.sqrt(2 / 3), rel=1e-5)
    assert found["bias"] == pytest.approx(math.pi / 4, rel=1e-5)
    assert found["mae"] == pytest.approx(math.pi / 4, rel=1e-5)


def test_mask_that_varies_with_latitude() -> None:
    """Only the northern hemisphere counts: <sin φ> is 1/2 there and 0 over the globe, <sin² φ> is 1/3."""
    grid = regular_grid(0.5)
    error = np.sin(np.deg2rad(grid.lat))[:, None].repeat(2, axis=1)[None, None]
    north = (grid.lat > 0)[:, None]
    weight_H = latitude_weights(grid)
    assert score(error, truth(np.zeros_like(error), weight_H=weight_H))["bias"] == pytest.approx(0, abs=1e-12)
    hidden = np.where(north, error, np.nan)
    found = score(hidden, truth(np.zeros_like(error), valid=north, weight_H=weight_H))
    assert found["bias"] == pytest.approx(0.5, rel=1e-5)
    assert found["rmse"] == pytest.approx(math.sqrt(1 / 3), rel=1e-5)


def test_rmse_is_the_root_of_the_mean_square_over_time() -> None:
    """Errors 3 and 4 give sqrt(12.5), not the mean of root mean squares 3.5."""
    forecast = np.array([3.0, 4.0])[:, None, None, None] * np.ones((2, 1, 4, 8))
    assert score(forecast, truth(np.zeros((2, 1, 4, 8))))["rmse"] == pytest.approx(math.sqrt(12.5), rel=1e-14)


def brute_force(forecast: Any, against: Truth, variable: int) -> dict[str, float]:
    squares, biases, magnitudes, correlations = [], [], [], []
    for b in range(len(forecast)):
        area = square = bias = magnitude = ff = oo = fo = 0.0
        for h in range(forecast.shape[2]):
            for w in range(forecast.shape[3]):
                if not against.valid_BOHW[b, variable, h, w]:
                    continue
                weight = float(against.weight_H[h])
                f, o, c = (
                    float(x[b, variable, h, w]) for x in (forecast, against.truth_BOHW, against.climatology_BOHW)
                )
                area += weight
                square += weight * (f - o) ** 2
                bias += weight * (f - o)
                magnitude += weight * abs(f - o)
                ff, oo, fo = ff + weight * (f - c) ** 2, oo + weight * (o - c) ** 2, fo + weight * (f - c) * (o - c)
        squares.append(square / area)
        biases.append(bias / area)
        magnitudes.append(magnitude / area)
        correlations.append(fo / math.sqrt(ff * oo))
    n = len(forecast)
    return {
        "rmse": math.sqrt(sum(squares) / n),
        "mae": sum(magnitudes) / n,
        "bias": sum(biases) / n,
        "acc": sum(correlations) / n,
    }


def test_brute_force() -> None:
    forecast, against = random_case(1)
    sums = ScoreSums([T2M, Z500])
    sums.add(forecast, against)
    for place, name in enumerate((T2M, Z500)):
        assert sums.scores()[name] == pytest.approx(brute_force(forecast, against, place), rel=1e-12)


@pytest.mark.parametrize("cuts", [[1], [2, 3], [1, 2, 3, 4]])
def test_any_batches_give_the_same_scores(cuts: list[int]) -> None:
    forecast, against = random_case(2)
    whole, total = ScoreSums([T2M, Z500]), ScoreSums([T2M, Z500])
    whole.add(forecast, against)
    for part in np.split(np.arange(len(forecast)), cuts):
        streamed = ScoreSums([T2M, Z500])
        streamed.add(
            forecast[part],
            Truth(
                truth_BOHW=against.truth_BOHW[part],
                climatology_BOHW=against.climatology_BOHW[part],
                valid_BOHW=against.valid_BOHW[part],
                weight_H=against.weight_H,
            ),
        )
        total += streamed
    for name in (T2M, Z500):
        assert total.scores()[name] == pytest.approx(whole.scores()[name], rel=1e-13)


def test_acc_of_an_anomaly_its_negative_and_a_multiple() -> None:
    random = np.random.default_rng(3)
    climatology, anomaly = random.standard_normal((2, 4, 1, 6, 12))
    against = truth(climatology + anomaly, climatology=climatology)
    assert score(climatology + anomaly, against)["acc"] == pytest.approx(1, rel=1e-12)
    assert score(climatology - anomaly, against)["acc"] == pytest.approx(-1, rel=1e-12)
    assert score(climatology + 0.1 * anomaly, against)["acc"] == pytest.approx(1, rel=1e-12)


def test_acc_is_uncentred() -> None:
    """A constant anomaly correlates fully with another constant one; centred it would be 0/0."""
    assert score(3.0, truth(np.ones((1, 1, 4, 8))))["acc"] == pytest.approx(1, rel=1e-12)


def test_perfect_forecast() -> None:
    _, against = random_case(4, (3, 1, 5, 6))
    found = score(against.truth_BOHW, against)
    assert (found["rmse"], found["mae"], found["bias"]) == (0, 0, 0)
    assert found["acc"] == pytest.approx(1, rel=1e-12)


def test_climatology_as_forecast_has_no_acc() -> None:
    _, against = random_case(5, (3, 1, 5, 6))
    assert score(against.climatology_BOHW, against)["acc"] is None


def test_nothing_valid_is_undefined_not_zero() -> None:
    found = score(np.nan, truth(np.full((2, 1, 4, 8), np.nan), valid=False))
    assert found == {"rmse": None, "mae": None, "bias": None, "acc": None}


def test_a_forecast_without_valid_cells_does_not_count() -> None:
    valid = np.array([True, False])[:, None, None, None]
    forecast = np.array([2.0, np.nan])[:, None, None, None] * np.ones((2, 1, 4, 8))
    assert score(forecast, truth(np.zeros((2, 1, 4, 8)), valid=valid))["rmse"] == pytest.approx(2)


def test_units() -> None:
    assert (METRICS["rmse"].units(Z500), METRICS["acc"].units(Z500)) == ("m2 s-2", "1")


def test_which_values_are_better() -> None:
    rmse, acc, bias = (METRICS[name] for name in ("rmse", "acc", "bias"))
    assert (rmse.is_better(1, 2), rmse.is_better(2, 2), rmse.best([3, 1, 2])) == (True, False, 1)
    assert (acc.is_better(0.9, 0.8), acc.is_better(0.8, 0.9), acc.best([0.1, 0.5])) == (True, False, 0.5)
    assert (bias.is_better(0, 1), bias.best([0, 1]), rmse.best([])) == (False, None, None)


@pytest.mark.parametrize("table", [METRICS, DISTRIBUTION_METRICS, PROJECTION_METRICS])
def test_tables_of_metrics(table: dict[str, Metric[Any]]) -> None:
    for name, metric in table.items():
        assert metric.name == name
        assert metric.title
        assert metric.description
        if metric.better == "lower":
            assert metric.optimum == 0
    assert len({metric.title for metric in table.values()}) == len(table)
