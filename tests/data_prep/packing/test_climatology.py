"""Climatologies: the 61-day window by hour, months, missing slots, compared with plain numpy."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cftime
import h5py
import numpy as np
import pytest

from climax_hpc.data.dataset import DataSet
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.verify import verify
from climax_hpc.shards.climatology_index import climatology_index

from ..packed import NAME

Settings = Callable[..., PackConfig]


def test_months_are_contiguous_and_have_a_climatology_by_month(cmip6: Any, settings: Settings) -> None:
    times = cmip6.mid_months(36)
    cmip6("tas", times=times, table="Amon", frequency="mon", cell_methods="area: time: mean")
    cmip6("pr", times=times - 0.5, table="Amon", frequency="mon", cell_methods="area: time: mean")
    folder = pack(settings()).parent
    source = verify(folder).sources[NAME]
    assert (source.frequency, source.step_hours, len(source.shards), source.gaps) == ("mon", 0.0, 1, [])
    assert source.climatology is not None
    with h5py.File(folder / source.climatology.file) as file, h5py.File(folder / source.shards[0].file) as shard:
        assert file["fields"].shape == (12, 2, 8, 16)
        assert (file["hour"][:] == 0).all()
        assert (np.diff(file["day_of_year"][:]) > 0).all()
        by_month = shard["fields"][:].astype(float).reshape(3, 12, 2, 8, 16).mean(axis=0)
        assert np.allclose(file["fields"][:], by_month, atol=1e-6)
    loaded = DataSet(folder).select(None)[0]  # time stamps in the middle of the month, slots on its 15th
    assert all(np.allclose(loaded.read_climatology(t), by_month[t % 12], atol=1e-6) for t in range(36))


@pytest.mark.parametrize("calendar", ["noleap", "standard", "360_day"])
def test_the_climatology_is_the_mean_over_61_days_and_the_hour(cmip6: Any, settings: Settings, calendar: str) -> None:
    steps = 4 * 366 * 2
    times = cmip6.six_hourly(steps, start_day=50)
    values = 280 + np.random.default_rng(0).standard_normal((steps, 12, 24))
    values[::7, :3] = np.nan
    cmip6("tas", times=times, values=values, calendar=calendar)
    folder = pack(settings(train_period=["1850", "1850"], steps_per_shard=999)).parent
    source = verify(folder).sources[NAME]
    fields, dates, seconds = [], [], []
    for shard in source.shards:
        with h5py.File(folder / shard.file) as file:
            fields.append(file["fields"][:].astype(float))
            dates += list(cftime.num2date(file["time"][:], file["time"].attrs["units"], calendar))
            seconds.append(np.int64(file["time"][:] * 3600))
    z, trained = np.concatenate(fields), np.array([d.year == 1850 for d in dates])
    day, hour = np.array([d.dayofyr for d in dates]), np.array([d.hour for d in dates])
    assert np.array_equal(climatology_index(np.concatenate(seconds), calendar, 6.0), (day, hour))
    length = {"noleap": 365, "360_day": 360}.get(calendar, 366)
    assert source.climatology is not None
    with h5py.File(folder / source.climatology.file) as file:
        slots = list(zip(file["day_of_year"][:].tolist(), file["hour"][:].tolist(), strict=True))
        assert slots == sorted(set(zip(day.tolist(), hour.tolist(), strict=True)))
        for k in range(0, len(slots), 97):
            apart = np.abs(day - slots[k][0])
            near = trained & (hour == slots[k][1]) & (np.minimum(apart, length - apart) <= 30)
            expected = np.nanmean(z[near], axis=0) if near.any() else np.full(z.shape[1:], np.nan)
            assert np.allclose(file["fields"][k], expected, atol=1e-6, equal_nan=True)


def test_days_without_a_climatology_are_reported(
    cmip6: Any, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cmip6("tas", times=cmip6.six_hourly(4 * 365))
    pack(settings(train_period=["1850-01", "1850-02"]))
    # Days 90 … 335 are more than 30 days from 1 January to 28 February: 246 days of 4 hours.
    warning = (
        rf"warning: .* {NAME} is missing .* at 984 of 1460 days and hours, because train_period 1850-01 … 1850-02 "
    )
    assert re.search(warning, capsys.readouterr().out)
    pack(settings(output=str(tmp_path / "whole")))
    assert "warning" not in capsys.readouterr().out
