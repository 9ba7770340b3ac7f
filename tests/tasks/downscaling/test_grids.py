"""Interpolation, margins and distributions of downscaling, on grids and samples whose answers are known by hand."""

import numpy as np
import pytest
import torch

from climax_hpc.errors import UserError
from climax_hpc.evaluation.distributions import compare_distributions
from climax_hpc.fields.grid import Grid, midpoint_bounds
from climax_hpc.tasks.downscaling.grids import Interpolator, pad_grid

T2M = "2m_temperature"
CPU = torch.device("cpu")


def grid(lat: list[float], lon: list[float]) -> Grid:
    step = lon[1] - lon[0]
    edges = np.array(lon)[:, None] + np.array([-step / 2, step / 2])
    half = (lat[1] - lat[0]) / 2
    bounds = midpoint_bounds(np.array(lat), lat[0] - half, lat[-1] + half)
    return Grid(lat=np.array(lat), lon=np.array(lon), lat_bnds=bounds, lon_bnds=edges)


def test_interpolation_handles_north_west_and_missing_cells() -> None:
    coarse = grid([35.0, 40.0, 45.0], [350.0, 355.0, 360.0, 365.0])
    fine = grid([34.0, 36.0, 38.0, 40.0, 42.0, 44.0], [-9.0, -7.0, -5.0, -3.0, -1.0, 1.0, 3.0])
    lat, lon = (torch.from_numpy(a) for a in np.meshgrid(coarse.lat, coarse.lon - 360, indexing="ij"))
    bilinear = Interpolator(coarse, fine, dtype=torch.float64, device=CPU)
    found = bilinear(torch.stack([lat, lon])[None])[0].numpy()
    assert np.allclose(found[0], np.clip(fine.lat, 35, 45)[:, None])
    assert np.allclose(found[1], fine.lon)
    nearest = Interpolator(coarse, fine, method="nearest", dtype=torch.float64, device=CPU)
    assert np.array_equal(nearest(lat[None, None])[0, 0, :, 0].numpy(), [35, 35, 40, 40, 40, 45])
    lat[1] = np.nan
    by_weights = bilinear(lat[None, None])[0, 0, :, 0].numpy()
    assert np.array_equal(np.isnan(by_weights), [False, False, False, True, False, False])
    assert np.allclose(by_weights[[0, 1, 2, 4, 5]], [35, 35, 35, 45, 45])


def test_the_margin_is_of_the_same_cells_and_missing() -> None:
    fine = grid([36.0, 37.0, 38.0], [0.0, 1.0, 2.0, 3.0, 4.0])
    where = pad_grid(fine, 4, 8, "E")
    assert where.grid.lat.tolist() == [36, 37, 38, 39]
    assert where.grid.lon.tolist() == [-1, 0, 1, 2, 3, 4, 5, 6]
    fields = torch.arange(15.0).reshape(1, 1, 3, 5)
    placed = where.place(fields)
    assert torch.equal(where.cut(placed), fields)
    assert int(placed.isnan().sum()) == 32 - 15
    with pytest.raises(UserError, match=r"fine grid of 3 × 5, the model on 2 × 8: set model.height and model.width"):
        pad_grid(fine, 2, 8, "E")


def test_distributions_of_known_samples() -> None:
    normal = np.random.default_rng(0).standard_normal((4000, 1, 1, 2))
    wide = np.concatenate([normal, np.full((1, 1, 1, 2), np.nan)]) * 2 + 1
    found = compare_distributions(wide, normal, np.ones(1), [T2M])[T2M]
    assert found["mean_bias"] == pytest.approx(1, abs=0.05)
    assert found["std_ratio"] == pytest.approx(2, rel=1e-6)
    # W1 of N(1, 2²) and N(0, 1): E|1 + Z| = 2φ(1) + 2Φ(1) - 1.
    assert found["wasserstein"] == pytest.approx(1.1666, abs=0.06)
    assert found["perkins"] < 0.75
    assert compare_distributions(normal, normal[::-1], np.ones(1), [T2M])[T2M]["perkins"] == 1


def test_missing_times_of_some_cells_change_no_other_cell() -> None:
    """Cells without a gap are computed together, the others one by one, with the same result."""
    rng = np.random.default_rng(1)
    fine, truth = (rng.standard_normal((50, 1, 1, 2)).repeat(2, axis=3) for _ in range(2))  # cells 0 = 1, 2 = 3
    gaps = [np.concatenate([some, np.full((1, 1, 1, 4), np.nan)]) for some in (fine, truth)]
    for some in gaps:
        some[-1, ..., [0, 2]] = some[0, ..., [0, 2]]
    both = compare_distributions(*gaps, np.ones(1), [T2M])[T2M]
    whole, part = (
        compare_distributions(*(some[..., cells] for some in gaps), np.ones(1), [T2M])[T2M]
        for cells in ([0, 2], [1, 3])
    )
    for name in both:
        assert both[name] == pytest.approx((whole[name] + part[name]) / 2, rel=1e-12)
