"""The members on the maps and in the fans are the model's, in physical units, at the cells named."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from climax_hpc.data.dataset import DataSet
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.sampler import Sample
from climax_hpc.evaluation.member_maps import member_maps
from climax_hpc.fields.grid import Grid


class Members:
    """Member m of lead k is m + 10·k in z-scores, plus the row and column in thousandths."""

    variables = ("geopotential_500", "2m_temperature")

    def __init__(self, members: int, source: PackedSource) -> None:
        self._members, (rows, columns) = members, source.grid.shape
        self._place_HW = torch.arange(rows)[:, None] * 0.1 + torch.arange(columns) * 0.001

    def forecast_members(self, samples: Sequence[Sample]) -> Tensor:
        (sample,) = samples
        value_M = torch.arange(self._members) + 10.0 * sample.lead_steps
        return (value_M[:, None, None, None] + self._place_HW).expand(-1, 2, -1, -1)[None]


@pytest.fixture(scope="module")
def source(make_dataset: Callable[..., Path]) -> PackedSource:
    return DataSet(make_dataset(dtype="float32")).select(None)[0]


def test_members_and_fans(source: PackedSource) -> None:
    rows, columns = (np.arange(size) for size in source.grid.shape)
    shown = Sample(time_index=source.steps - 3, lead_steps=2)
    found = member_maps(Members(3, source), source, shown, [4, 1, 2], source.grid, (rows, columns))
    t2m = source.channels.index("2m_temperature")
    std, mean = source.std_C[t2m], source.mean_C[t2m]
    assert found["members"].shape == (3, 2, *source.grid.shape)
    np.testing.assert_allclose(found["members"][:, 1, 0, 0], (20 + np.arange(3)) * std + mean, rtol=1e-6)
    assert found["fan_variables"].tolist() == ["geopotential_500", "2m_temperature"]
    assert found["fan_lead_hours"].tolist() == [6, 12]  # the source ends before the fourth step
    assert found["fan_members"].shape == (3, 2, 2, 3)
    for p, (lat, lon) in enumerate(((50.0, 10.0), (40.0, 260.0), (-35.0, 150.0))):
        row, column = np.abs(source.grid.lat - lat).argmin(), np.abs(source.grid.lon - lon).argmin()
        assert (found["fan_lat"][p], found["fan_lon"][p]) == (source.grid.lat[row], source.grid.lon[column])
        z_TM = np.array([10, 20])[:, None] + np.arange(3) + row * 0.1 + column * 0.001
        np.testing.assert_allclose(found["fan_members"][p, 1], z_TM * std + mean, rtol=1e-6)
        truth = [source.read(shown.time_index + k)[t2m, row, column] * std + mean for k in (1, 2)]
        np.testing.assert_allclose(found["fan_truth"][p, 1], truth, rtol=1e-6)


def test_a_region_has_one_point_and_one_member_has_none(source: PackedSource) -> None:
    cells = (np.arange(2, 5), np.arange(4, 9))
    whole, (rows, columns) = source.grid, cells
    grid = Grid(
        lat=whole.lat[rows], lon=whole.lon[columns], lat_bnds=whole.lat_bnds[rows], lon_bnds=whole.lon_bnds[columns]
    )
    shown = Sample(time_index=3, lead_steps=1)
    found = member_maps(Members(2, source), source, shown, [1], grid, cells)
    assert found["members"].shape == (2, 2, 3, 5)
    assert (found["fan_lat"].tolist(), found["fan_lon"].tolist()) == ([source.grid.lat[3]], [source.grid.lon[6]])
    std, mean = (table[source.channels.index("2m_temperature")] for table in (source.std_C, source.mean_C))
    np.testing.assert_allclose(found["fan_members"][0, 1, 0], (10 + np.arange(2) + 0.306) * std + mean, rtol=1e-6)
    assert member_maps(Members(1, source), source, shown, [1], grid, cells) == {}
