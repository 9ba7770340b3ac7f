"""Scores against xskillscore and hand-derived integrals: odd grids, missing cells, the globe and regions."""

import numpy as np
import pytest
import xarray as xr

from climax_hpc.evaluation.accumulators import AccumulatorPlan, ScoreSums, Truth, as_tensor, cells_of
from climax_hpc.evaluation.metrics import METRICS, ForecastMeans, compute_metrics
from climax_hpc.fields.grid import latitude_weights
from climax_hpc.fields.regions import REGIONS

from ..synthetic import make_grid

xs = pytest.importorskip("xskillscore", reason="xskillscore is a development dependency: pip install '.[dev]'")
SHAPE = (18, 31)


def make_case(seed: int = 0) -> tuple[np.ndarray, Truth, xr.Dataset]:
    """Forecasts (5, 2, 18, 31), their truth with missing cells, and the same as xarray."""
    random = np.random.default_rng(seed)
    forecast, truth, climatology = (random.standard_normal((5, 2, *SHAPE)) for _ in range(3))
    valid = random.random((5, 2, *SHAPE)) > 0.2
    weight_H = latitude_weights(make_grid(SHAPE))
    dims = ("start", "variable", "lat", "lon")
    fields = {"f": forecast, "o": truth, "c": climatology}
    where = {name: (dims, np.where(valid, a, np.nan)) for name, a in fields.items()}
    ds = xr.Dataset(where).assign(w=(("lat", "lon"), np.repeat(weight_H[:, None], SHAPE[1], axis=1)))
    against = Truth.of(truth_BOHW=truth, climatology_BOHW=climatology, valid_BOHW=valid, weight_H=weight_H)
    return forecast, against, ds


def test_scores_of_single_forecasts() -> None:
    forecast, against, ds = make_case()
    sums = ScoreSums(["geopotential_500", "2m_temperature"])
    sums.add(as_tensor(forecast), against)
    options = {"dim": ["lat", "lon"], "weights": ds.w, "skipna": True}
    np.testing.assert_allclose(sums.series["square_error"], xs.mse(ds.f, ds.o, **options))
    np.testing.assert_allclose(sums.series["absolute_error"], xs.mae(ds.f, ds.o, **options))
    np.testing.assert_allclose(sums.series["error"], xs.me(ds.f, ds.o, **options))


def test_acc_is_the_correlation_about_climatology() -> None:
    """xskillscore's Pearson correlation subtracts means, which are 0 for fields joined with their negatives."""
    forecast, against, ds = make_case()
    sums = ScoreSums(["geopotential_500", "2m_temperature"])
    sums.add(as_tensor(forecast), against)
    f, o = (xr.concat([a, -a], dim="side") for a in (ds.f - ds.c, ds.o - ds.c))
    both = ds.w.expand_dims(side=2)
    expected = xs.pearson_r(f, o, dim=["side", "lat", "lon"], weights=both, skipna=True)
    for b in range(5):
        alone = ForecastMeans(sums.series, np.eye(5)[b : b + 1])
        np.testing.assert_allclose(METRICS["acc"].compute(alone)[0], expected[b])


def test_means_over_time() -> None:
    forecast, against, ds = make_case(1)
    sums = ScoreSums(["geopotential_500", "2m_temperature"])
    sums.add(as_tensor(forecast), against)
    rmse_BO = xs.rmse(ds.f, ds.o, dim=["lat", "lon"], weights=ds.w, skipna=True)
    found = compute_metrics(METRICS.values(), sums.series, np.ones((1, 5)))
    np.testing.assert_allclose(found["rmse"][0], np.sqrt((rmse_BO**2).mean("start")))
    np.testing.assert_allclose(found["rmse_climax"][0], rmse_BO.mean("start"))
    scores = sums.scores()
    for o, name in enumerate(scores):
        assert scores[name]["rmse"] == pytest.approx(found["rmse"][0, o])
        assert scores[name]["acc"] == pytest.approx(found["acc"][0, o])


def test_hand_derived_integral() -> None:
    """An error of sin(latitude) has mean square 1/3 over the sphere; exact cell areas converge to it quadratically."""
    errors = []
    for rows in (18, 36):
        grid = make_grid((rows, 8))
        field = np.broadcast_to(np.sin(np.deg2rad(grid.lat))[:, None], (1, 1, rows, 8))
        against = Truth.of(
            truth_BOHW=np.zeros_like(field),
            climatology_BOHW=np.zeros_like(field),
            valid_BOHW=np.ones(field.shape, bool),
            weight_H=latitude_weights(grid),
        )
        sums = ScoreSums(["geopotential_500"])
        sums.add(as_tensor(field), against)
        errors.append(abs((sums.scores()["geopotential_500"]["rmse"] or 0) ** 2 - 1 / 3))
    assert errors[0] < 2e-3
    assert errors[1] == pytest.approx(errors[0] / 4, rel=0.02)


@pytest.mark.parametrize("region", ["Europe", "Australia", "Africa", "Arctic"])
def test_regions_on_their_own_cells(region: str) -> None:
    forecast, against, ds = make_case(2)
    grid = make_grid(SHAPE)
    plan = AccumulatorPlan(regions=cells_of(grid, [region]), lat=grid.lat, weight_H=against.weight_H.numpy())
    accumulator = plan.start(["geopotential_500", "2m_temperature"])
    accumulator.add(as_tensor(forecast), against)
    box = REGIONS[region]
    inside_lat = (grid.lat >= box.south) & (grid.lat <= box.north)
    inside_lon = (grid.lon - box.west) % 360 <= box.width_deg
    cut = ds.isel(lat=np.flatnonzero(inside_lat), lon=np.flatnonzero(inside_lon))
    expected = xs.mse(cut.f, cut.o, dim=["lat", "lon"], weights=cut.w, skipna=True)
    np.testing.assert_allclose(accumulator.regions[region].series["square_error"], expected)


def test_a_mirrored_grid_gives_other_regional_scores() -> None:
    """Errors only north of the equator count in Europe, and not once the fields are turned upside down."""
    grid = make_grid(SHAPE)
    error = np.broadcast_to((grid.lat > 0).astype(float)[:, None], (1, 1, *SHAPE))
    zero, valid = np.zeros_like(error), np.ones(error.shape, bool)
    plan = AccumulatorPlan(regions=cells_of(grid, ["Europe"]), lat=grid.lat, weight_H=latitude_weights(grid))
    found = []
    for field in (error, error[:, :, ::-1]):
        accumulator = plan.start(["geopotential_500"])
        against = Truth.of(truth_BOHW=zero, climatology_BOHW=zero, valid_BOHW=valid, weight_H=plan.weight_H)
        accumulator.add(as_tensor(field), against)
        found.append(accumulator.regions["Europe"].scores()["geopotential_500"]["rmse"])
    assert found == pytest.approx([1.0, 0.0])
