"""Finds the latitudes and longitudes of a variable, for files (`pack`) and xarray data sets (`predict`).

Names of axes may be nominal: tripolar ocean grids and rotated poles come with 1-D `lat` and `lon` that are no latitudes
and longitudes. What the attributes `coordinates` and `grid_mapping` name decides, then any 2-D positions in the file.
"""

from typing import Any

import numpy as np

from climax_hpc.data_prep.sources.coordinates import (
    COORDINATES,
    CURVILINEAR,
    Unusable,
    attribute,
    is_kind,
    numbers,
    refuse_text,
)

_KINDS = ("lat", "lon")
_UNITS = {
    kind: {f"degree{s}{way}" for s in ("", "s") for way in (f"_{side}", f"_{side[0].upper()}", side[0].upper())}
    for kind, side in (("lat", "north"), ("lon", "east"))
}
"""Units that only a latitude or a longitude has, in the spellings of CF."""
_REGRID = "regrid it first, `cdo remapcon,r360x180`"
_SAME_DEG = 0.01


def horizontal(dataset: Any, variable: Any, everywhere: bool = False) -> tuple[Any, Any]:
    """The 1-D latitudes and longitudes of a variable, along two of its dimensions.

    `everywhere`: a series of single numbers is on the latitudes and longitudes of the file.

    Raises:
        Unusable: the grid is curvilinear, unstructured, rotated or projected; there is none.
    """
    _refuse_mapping(dataset, variable)
    named = attribute(variable, "coordinates").split()
    found = {kind: _positions(dataset, variable, kind, named, everywhere) for kind in _KINDS}
    lat, lon = (next((v for v in found[kind] if v.ndim == 1), None) for kind in _KINDS)
    if lat is not None and lon is not None and lat.dimensions == lon.dimensions:
        raise Unusable(f"its grid is unstructured (one index for all cells); {_REGRID}")
    for kind, axis in (("lat", lat), ("lon", lon)):
        if any(not _agrees(v, axis, kind) for v in found[kind] if v.ndim > 1):
            raise Unusable(f"its grid is curvilinear (2-D latitudes and longitudes); {_REGRID}")
    if lat is None or lon is None:
        raise Unusable(f"it has no latitudes and longitudes; {_REGRID}")
    for kind, axis in (("lat", lat), ("lon", lon)):
        _refuse_nominal(axis, kind)
    _refuse_absent(dataset, variable, named)
    return lat, lon


def _positions(dataset: Any, variable: Any, kind: str, named: list[str], everywhere: bool) -> list[Any]:
    """Coordinates of that kind on the dimensions of the variable: first those named, then those of its dimensions."""
    dimensions = set(variable.dimensions)
    series = everywhere and variable.dimensions == ("time",)
    found = [
        v
        for v in dataset.variables.values()
        if v.dimensions and v.name != variable.name and (dimensions.issuperset(v.dimensions) or series)
        if is_kind(kind, v.name, v) or ((v.ndim > 1 or v.name in named) and _is_position(kind, v))
    ]
    return sorted(found, key=lambda v: (v.name not in named, v.dimensions != (v.name,)))


def _is_position(kind: str, variable: Any) -> bool:
    """True if a variable that is no axis holds latitudes or longitudes: by its name, units or description."""
    return (
        variable.name.lower() in CURVILINEAR[kind]
        or attribute(variable, "units") in _UNITS[kind]
        or COORDINATES[kind].standard_name in attribute(variable, "long_name").lower()
    )


def _agrees(positions: Any, axis: Any | None, kind: str) -> bool:
    """True if positions in two dimensions only repeat a 1-D axis, as regridding tools write them."""
    if axis is None or positions.ndim != 2 or axis.dimensions[0] not in positions.dimensions:
        return False
    across = np.moveaxis(numbers(positions), positions.dimensions.index(axis.dimensions[0]), -1)
    away = np.abs(across - numbers(axis))
    away = np.minimum(away, np.abs(away - 360.0)) if kind == "lon" else away
    known = np.isfinite(away)
    return bool(known.any() and (away[known] <= _SAME_DEG).all())


def _refuse_mapping(dataset: Any, variable: Any) -> None:
    """Refuse a grid mapping that is not in latitude and longitude, such as a rotated pole.

    `grid_mapping` holds a name, or `name: coordinate coordinate name: …` for several.
    """
    words = attribute(variable, "grid_mapping").replace(":", " ").split()
    mappings = [dataset.variables[word] for word in words if word in dataset.variables]
    stated = [name for name in map(_mapping_name, mappings) if name]
    if stated and "latitude_longitude" not in stated:
        raise Unusable(f"its grid is {stated[0]}, not regular in latitude and longitude; {_REGRID}")


def _mapping_name(mapping: Any) -> str:
    """CF's name of a grid mapping; "projected" where only its text in WKT says so; else empty."""
    texts = [attribute(mapping, key) for key in ("crs_wkt", "spatial_ref")]
    projected = any(text.startswith(("PROJCS", "PROJCRS")) for text in texts)
    return attribute(mapping, "grid_mapping_name") or ("projected" if projected else "")


def _refuse_nominal(axis: Any, kind: str) -> None:
    """Refuse an axis that its name calls latitude or longitude, and its attributes something else."""
    refuse_text(axis)
    stated, units = attribute(axis, "standard_name"), attribute(axis, "units")
    if stated.startswith(("grid_", "projection_")):
        raise Unusable(f"its axis {axis.name} is {stated}, not {COORDINATES[kind].standard_name}; {_REGRID}")
    if units and "deg" not in units.lower() and "°" not in units:
        raise Unusable(f"its axis {axis.name} is in {units!r}, not degrees; {_REGRID}")


def _refuse_absent(dataset: Any, variable: Any, named: list[str]) -> None:
    """Refuse a variable whose true positions are not in the file, or on other dimensions: its axes may be nominal."""
    for kind in _KINDS:
        known = {*COORDINATES[kind].names, *CURVILINEAR[kind]}
        for name in named:
            found = dataset.variables.get(name)
            if found is None and name.lower() in known:
                where = "which the file does not contain"
            elif (
                found is not None and _is_position(kind, found) and not set(found.dimensions) <= {*variable.dimensions}
            ):
                where = f"which lies on other dimensions ({', '.join(found.dimensions)})"
            else:
                continue
            raise Unusable(
                f"its attribute `coordinates` names {name}, {where}, so its axes may not be the true positions; "
                "correct the file, or remove the attribute (`ncatted -a coordinates,,d,,`)"
            )
