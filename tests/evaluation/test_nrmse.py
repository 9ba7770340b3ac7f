"""ClimateBench's NRMSE against hand-derived cases, brute force over cells, and xskillscore."""

import numpy as np
import pytest
import xarray as xr

from climax_hpc.evaluation.nrmse import nrmse, resampled_nrmse

xs = pytest.importorskip("xskillscore", reason="xskillscore is a development dependency: pip install '.[dev]'")
LAT = np.array([-72.0, -36.0, 0.0, 36.0, 72.0])
WEIGHT_H = np.cos(np.deg2rad(LAT))


def make_case(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A projection and its truth (7, 5, 9), mean change about 2."""
    random = np.random.default_rng(seed)
    return 2.3 + random.standard_normal((7, 5, 9)), 2 + random.standard_normal((7, 5, 9))


def test_hand_derived_cases() -> None:
    """A uniform error e of a change c: e/c in all, total 6 e/c. Errors that cancel over time: spatial 0."""
    y_NHW = np.full((4, 5, 9), 2.0)
    assert nrmse(y_NHW + 0.5, y_NHW, WEIGHT_H) == pytest.approx({"spatial": 0.25, "global": 0.25, "total": 1.5})
    assert nrmse(-y_NHW - 0.5, -y_NHW, WEIGHT_H) == pytest.approx({"spatial": 0.25, "global": 0.25, "total": 1.5})
    swing_N11 = np.array([1.0, -1.0, 1.0, -1.0])[:, None, None]
    assert nrmse(y_NHW + swing_N11, y_NHW, WEIGHT_H) == pytest.approx({"spatial": 0, "global": 0.5, "total": 2.5})
    # 1 K in the northern row alone: <e²> is its share of the area, <e> too.
    wrong = y_NHW.copy()
    wrong[:, -1] += 1
    share = WEIGHT_H[-1] / WEIGHT_H.sum()
    got = nrmse(wrong, y_NHW, WEIGHT_H)
    assert (got["spatial"], got["global"]) == (pytest.approx(share**0.5 / 2), pytest.approx(share / 2))


def test_brute_force_over_cells_and_years() -> None:
    x_NHW, y_NHW = make_case()
    total_weight = change = square = 0.0
    for i, weight in enumerate(WEIGHT_H):
        for j in range(9):
            total_weight += weight
            change += weight * y_NHW[:, i, j].mean()
            square += weight * (x_NHW[:, i, j].mean() - y_NHW[:, i, j].mean()) ** 2
    by_year = []
    for n in range(7):
        x, y = (sum(WEIGHT_H[i] * f[n, i, j] for i in range(5) for j in range(9)) for f in (x_NHW, y_NHW))
        by_year.append(((x - y) / total_weight) ** 2)
    change = abs(change / total_weight)
    expected = {"spatial": (square / total_weight) ** 0.5 / change, "global": np.mean(by_year) ** 0.5 / change}
    assert nrmse(x_NHW, y_NHW, 7.5 * WEIGHT_H) == pytest.approx(
        expected | {"total": expected["spatial"] + 5 * expected["global"]}
    )


def test_the_formulas_of_climatebench_with_xarray_and_xskillscore() -> None:
    x_NHW, y_NHW = make_case(1)
    ds = xr.Dataset({"x": (("time", "lat", "lon"), x_NHW), "y": (("time", "lat", "lon"), y_NHW)}, {"lat": LAT})
    weight = np.cos(np.deg2rad(ds.lat))
    means = ds.weighted(weight).mean(("lat", "lon"))
    scale = abs(float(means.y.mean()))
    maps = ds.mean("time")
    spatial = float(xs.rmse(maps.x, maps.y, dim=["lat", "lon"], weights=weight.broadcast_like(maps.y))) / scale
    got = nrmse(x_NHW, y_NHW, WEIGHT_H)
    assert got["spatial"] == pytest.approx(spatial)
    assert got["global"] == pytest.approx(float(xs.rmse(means.x, means.y, dim="time")) / scale)


def test_a_draw_is_the_score_of_the_years_it_holds() -> None:
    x_NHW, y_NHW = make_case(2)
    years_RN = np.random.default_rng(0).integers(7, size=(130, 7))  # more than are held at once
    draws_RN = np.stack([np.bincount(years, minlength=7) for years in years_RN]).astype(float)
    drawn = resampled_nrmse(x_NHW, y_NHW, WEIGHT_H, draws_RN)
    for r in (0, 64, 129):
        expected = nrmse(x_NHW[years_RN[r]], y_NHW[years_RN[r]], WEIGHT_H)
        assert {name: values_R[r] for name, values_R in drawn.items()} == pytest.approx(expected)


def test_missing_values_are_no_score() -> None:
    x_NHW, y_NHW = make_case()
    y_NHW[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="missing values"):
        nrmse(x_NHW, y_NHW, WEIGHT_H)
