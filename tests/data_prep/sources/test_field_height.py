"""Near-surface fields at another height than their name says, for pack and predict."""

from pathlib import Path
from typing import Any

import netCDF4
import pytest

from climax_hpc.data_prep.sources.coordinates import Unusable
from climax_hpc.data_prep.sources.read_file import inspect_variable
from climax_hpc.errors import UserError
from climax_hpc.inference.open_files import open_files
from climax_hpc.inference.xarray_input import XarrayInitialConditions


def at_height(path: Path, variable: str, metres: float) -> None:
    """Add CMIP6's scalar coordinate of height."""
    with netCDF4.Dataset(path, "a") as file:
        height = file.createVariable("height", "f8", ())
        height.setncatts({"units": "m", "standard_name": "height", "positive": "up"})
        height[...] = metres
        file[variable].coordinates = "height"


@pytest.mark.parametrize(("variable", "metres"), [("uas", 100.0), ("tas", 50.0)])
def test_other_heights_are_refused(cmip6: Any, variable: str, metres: float) -> None:
    path = cmip6(variable)
    at_height(path, variable, metres)
    reason = rf"it lies at {metres:g} m \(height\), not at the \d+ m of {variable}"
    with pytest.raises(Unusable, match=reason):
        inspect_variable(cmip6.root, path.relative_to(cmip6.root).as_posix(), variable)
    with pytest.raises(UserError, match=reason):
        XarrayInitialConditions(open_files([path]), "x")


@pytest.mark.parametrize(("variable", "metres"), [("uas", 10.0), ("tas", 1.5), ("ts", 100.0)])
def test_usual_heights_are_read(cmip6: Any, variable: str, metres: float) -> None:
    path = cmip6(variable)
    at_height(path, variable, metres)
    assert inspect_variable(cmip6.root, path.relative_to(cmip6.root).as_posix(), variable).variable_id == variable
    assert len(XarrayInitialConditions(open_files([path]), "x").channels) == 1
