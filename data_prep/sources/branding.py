"""CMIP7 branding suffixes, such as `tpt-p7h-hxy-air`: the statistic over time, vertical level, grid and area of values.

The labels and their meaning are those of CMIP7's controlled vocabulary (github.com/WCRP-CMIP/CMIP7-CVs).
"""

from collections.abc import Mapping
from typing import Any

from climax_hpc.data_prep.sources.coordinates import Unusable
from climax_hpc.data_prep.sources.intervals import time_methods

BRANDING_LABELS = ("temporal_label", "vertical_label", "horizontal_label", "area_label")
"""Global attributes that hold the parts of a branding suffix, in its order."""
_GRID = "hxy"
_WHOLE_CELLS = ("u", "air")
"""Area labels of values that hold for whole cells: unmasked, and where there is air (levels above the ground)."""
_PARTS = {"tos": "sea"}
"""Variable -> area label of the part of cells on which the variable is defined."""
_AREAS = {
    "lnd": "land", "sea": "sea", "si": "sea ice", "is": "ice sheets", "lsi": "land and sea ice", "ifs": "open sea",
}  # fmt: skip
_CELL_METHODS = {"tpt": "time: point", "tavg": "time: mean", "tsum": "time: sum", "ti": ""}
"""Temporal label -> CF cell methods, for those that are neither extreme nor climatology."""
_EXPECTED = "expected tpt (instants), tavg (means), tsum (sums) or ti (static)"
_OTHERS = {
    "tmin": "minima of intervals", "tmax": "maxima of intervals", "tminavg": "means of daily minima",
    "tmaxavg": "means of daily maxima", "tclm": "a climatology of months", "tclmdc": "a climatology of hours",
}  # fmt: skip


def branding_of(attributes: Mapping[str, Any]) -> str:
    """The CMIP7 branding suffix in global attributes, which may hold it in parts; empty if there is none."""
    _, _, suffix = str(attributes.get("branded_variable", "")).partition("_")
    parts = "-".join(str(attributes[label]) for label in BRANDING_LABELS if attributes.get(label))
    return str(attributes.get("branding_suffix", "")) or suffix or parts


def refuse_branding(branding: str, variable_id: str) -> None:
    """Refuse values that are no instants, means or sums of whole cells on a grid; an empty branding passes.

    Raises:
        Unusable: names the branding, its label and the labels that are expected.
    """
    temporal, *others = branding.split("-")
    if temporal and temporal not in _CELL_METHODS:
        meaning = _OTHERS.get(temporal, "a label that is not in CMIP7's vocabulary")
        raise Unusable(f"its branding_suffix is {branding} ({temporal}: {meaning}), {_EXPECTED}; leave it out")
    if len(others) == len(BRANDING_LABELS) - 1 and others[1] != _GRID:
        raise Unusable(
            f"its branding_suffix is {branding} ({others[1]}: a mean over areas, a section or sites), expected {_GRID} "
            "(a grid of longitudes and latitudes); leave it out"
        )
    areas = (*_WHOLE_CELLS, *([_PARTS[variable_id]] if variable_id in _PARTS else []))
    if len(others) == len(BRANDING_LABELS) - 1 and others[2] not in areas:
        meaning = f"values of {_AREAS[others[2]]} only" if others[2] in _AREAS else "values of a part of each cell"
        raise Unusable(
            f"its branding_suffix is {branding} ({others[2]}: {meaning}), expected {' or '.join(areas)} for "
            f"{variable_id}; leave it out"
        )


def refuse_other_method(branding: str, cell_methods: str, name: str) -> None:
    """Refuse a variable whose CF cell methods over time contradict the branding; one of both may say nothing.

    Raises:
        Unusable: names both.
    """
    expected, found = time_methods(cell_methods_of_branding(branding)), time_methods(cell_methods)
    if expected and found and set(found) != set(expected):
        raise Unusable(
            f"its branding_suffix is {branding}, but the cell_methods of {name} are {cell_methods!r}, expected "
            f"{cell_methods_of_branding(branding)!r}; correct the wrong one"
        )


def cell_methods_of_branding(branding: str) -> str:
    """CF cell methods over time of a branding; empty where it has none, or is empty."""
    return _CELL_METHODS.get(branding.split("-")[0], "")


def methods_over_time(stated: str, branding: str) -> str:
    """The cell methods that count: those of the variable, else what its branding says about time."""
    return stated if time_methods(stated) else cell_methods_of_branding(branding) or stated
