"""Years beyond 9999 and before 0: packed, read in the order of time, selected by partial dates."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from climax_hpc.data.dataset import DataSet
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack

from ..data_prep.conftest import Cmip6Writer


@pytest.mark.parametrize(
    ("units", "calendar", "first", "period"),
    [
        ("days since 9999-11-01", "noleap", (9999, 11, 1), ("10000-01", "10000-01")),
        ("days since -0050-01-01", "proleptic_gregorian", (-50, 1, 1), ("-50-02", "-50-02")),
    ],
)
def test_far_years(tmp_path: Path, units: str, calendar: str, first: Any, period: tuple[str, str]) -> None:
    cmip6: Callable[..., Path] = Cmip6Writer(tmp_path / "in")
    warmer = 260 + 0.1 * np.arange(100)[:, None, None] + 0.001 * np.random.default_rng(0).standard_normal((100, 12, 24))
    cmip6(
        "tas", times=np.arange(100) + 0.5, values=warmer, table="day", frequency="day", calendar=calendar,
        time_units=units, cell_methods="time: mean",
    )  # fmt: skip
    config = PackConfig(
        input=str(tmp_path / "in"), output=str(tmp_path / "out"), dtype="float32", grid_spacing_deg=None,
        steps_per_shard=30,
    )  # fmt: skip
    source = DataSet(pack(config).parent).select(None)[0]
    date = source.date(0)
    assert (date.year, date.month, date.day) == first
    assert (np.diff(source.hours) == 24).all()
    means = [float((source.read(t)[0] * source.std_C[0] + source.mean_C[0]).mean()) for t in range(100)]
    assert np.allclose(means, 260 + 0.1 * np.arange(100), atol=0.01)
    (segment,) = source.within(period)
    assert segment.steps in (28, 31)
    assert source.date(segment.first).day == 1
