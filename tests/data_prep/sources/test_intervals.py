"""Time means wherever their stamps lie: the bounds decide which interval a step stands for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
from numpy.typing import NDArray

from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.sources.intervals import is_instantaneous
from climax_hpc.data_prep.sources.read_file import inspect_variable
from climax_hpc.errors import UserError
from climax_hpc.fields.calendars import iso
from climax_hpc.shards.manifest import read_manifest

from ..packed import physical

Settings = Callable[..., PackConfig]
MONTHS = np.resize([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], 36)
END = np.cumsum(MONTHS).astype(np.float64)


def set_bounds(path: Path, bounds: NDArray[np.float64], name: str = "time_bnds") -> None:
    """Give the time axis of a file bounds [days]."""
    with netCDF4.Dataset(path, "a") as file:
        file["time"].bounds = name
        file.createVariable(name, "f8", ("time", "bnds"))[:] = bounds


def means(cmip6: Any, variable: str, times: Any, bounds: Any, values: Any, **options: Any) -> Path:
    """A file of time means with bounds."""
    path: Path = cmip6(variable, times=times, values=values, cell_methods="time: mean", **options)
    set_bounds(path, bounds)
    return path


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_months_pair_whatever_the_stamp(cmip6: Any, settings: Settings, place: float) -> None:
    month = np.arange(36) % 12 + 1
    bounds = np.stack([END - MONTHS, END], axis=-1)
    monthly = {"table": "Amon", "frequency": "mon"}
    noise = 0.01 * np.random.default_rng(0).standard_normal((36, 12, 24))
    warmer = 200 + 5 * month[:, None, None] + noise
    means(cmip6, "tas", END - MONTHS + place * MONTHS, bounds, warmer, **monthly)
    means(cmip6, "psl", END - MONTHS / 2, bounds, 1e5 + 100 * month[:, None, None] + noise, **monthly)
    folder = pack(settings()).parent
    (source,) = read_manifest(folder).sources.values()
    assert [shard.first for shard in source.shards] == ["1850-01-16T12:00:00"]
    fields_TCHW = physical(folder)
    assert np.allclose((fields_TCHW[:, 0].mean((1, 2)) - 200) / 5, month, atol=0.01)
    assert np.allclose((fields_TCHW[:, 1].mean((1, 2)) - 1e5) / 100, month, atol=0.01)


@pytest.mark.parametrize(("hours", "frequency"), [(24, "day"), (6, "6hr")])
def test_ends_of_shorter_intervals(cmip6: Any, hours: int, frequency: str) -> None:
    end = (np.arange(8) + 1) * hours / 24
    bounds = np.stack([end - hours / 24, end], axis=-1)
    path = means(cmip6, "tas", end, bounds, None, table=frequency, frequency=frequency)
    found = inspect_variable(cmip6.root, path.relative_to(cmip6.root).as_posix(), "tas")
    assert [iso(second, found.calendar)[11:16] for second in found.seconds[:2]] == (
        ["12:00", "12:00"] if hours == 24 else ["03:00", "09:00"]
    )


@pytest.mark.parametrize(
    ("table", "frequency", "starts"), [("Amon", "mon", END - MONTHS), ("day", "day", np.arange(36.0))]
)
def test_ends_without_bounds_do_not_pair_with_starts(
    cmip6: Any, settings: Settings, table: str, frequency: str, starts: NDArray[np.float64]
) -> None:
    lengths = np.diff(np.append(starts, starts[-1] + (31 if frequency == "mon" else 1)))
    names = {"table": table, "frequency": frequency}
    means(cmip6, "psl", starts + lengths / 2, np.stack([starts, starts + lengths], axis=-1), None, **names)
    cmip6("tas", times=starts + lengths, cell_methods="time: mean", **names)
    with pytest.raises(UserError, match=r"tas.*has no intervals.*one step apart from those of \S+psl_"):
        pack(settings())
    cmip6("tas", times=starts, cell_methods="time: mean", **names)
    pack(settings())


def test_points_keep_their_stamps(cmip6: Any) -> None:
    path = cmip6("tas", cell_methods="area: mean time: point")
    set_bounds(path, np.stack([cmip6.six_hourly(8) - 0.25, cmip6.six_hourly(8)], axis=-1))
    file = path.relative_to(cmip6.root).as_posix()
    assert (np.diff(inspect_variable(cmip6.root, file, "tas").seconds) == 6 * 3600).all()
    assert inspect_variable(cmip6.root, file, "tas").seconds[0] == 0
    assert is_instantaneous("area: mean time: point")
    assert not is_instantaneous("time: mean")
    assert not is_instantaneous("")


def test_bounds_of_length_zero_are_points(cmip6: Any) -> None:
    path = cmip6("tas", cell_methods="")
    set_bounds(path, np.stack([cmip6.six_hourly(8)] * 2, axis=-1))
    assert inspect_variable(cmip6.root, path.relative_to(cmip6.root).as_posix(), "tas").seconds[0] == 0


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (np.stack([END + 40, END + 70], axis=-1), "time step 0 is stamped .*, but its bounds are 1850-03-13"),
        (np.stack([END - 80, END], axis=-1), "the intervals of time steps 0 and 1 overlap"),
        (np.where(np.arange(36)[:, None] == 5, END[5], np.stack([END - 28, END], -1)), "time step 5 is stamped"),
    ],
)
def test_contradictions_are_refused(cmip6: Any, settings: Settings, bounds: Any, message: str) -> None:
    means(cmip6, "tas", END, bounds, None, table="Amon", frequency="mon")
    with pytest.raises(UserError, match=message):
        pack(settings())
