"""Values that no atmosphere has: refused by pack and predict, with file, range and count; unusual ones are reported."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.sources.conversions import ALIASES
from climax_hpc.errors import UserError

Settings = Callable[..., PackConfig]


def temperatures() -> Any:
    """Fields (8, 12, 24) [K]."""
    return 280 + 5 * np.random.default_rng(0).standard_normal((8, 12, 24))


@pytest.mark.parametrize("sentinel", [1e33, -999.0, 0.0])
def test_unmarked_missing_values_are_refused(cmip6: Any, settings: Settings, tmp_path: Path, sentinel: float) -> None:
    values = temperatures()
    values[3, :4, :6] = sentinel
    cmip6("tas", values=values)
    with pytest.raises(UserError, match=r"tas_6hr.*\.nc, steps 0–7: 2m_temperature has 24 of 2304 values outside"):
        pack(settings())
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*.h5"))


def test_a_magnitude_that_is_wrong_by_a_thousand_is_reported(cmip6: Any, settings: Settings, capsys: Any) -> None:
    cmip6("pr", values=1e-7 * np.random.default_rng(0).random((8, 12, 24)))
    cmip6("tas", values=temperatures())
    pack(settings())
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "warning" in line and "precipitation" in line]
    assert "total_precipitation_rate is at most" in line
    assert "are the units right?" in line


def test_departures_are_those_of_climatebench() -> None:
    assert {name for name, alias in ALIASES["climatebench"].items() if alias.departures} == {
        "tas", "pr", "diurnal_temperature_range", "pr90",
    }  # fmt: skip
