"""Latitude-longitude grids: cell edges, latitude weights, the global grids of ClimaX."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.errors import UserError

Array = NDArray[np.float64]
_SMALLEST_DEG = 0.01
_SAME_DEG = 1e-3  # coordinates from files in single precision


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """A rectilinear grid; latitudes ascend, longitudes ascend eastward.

    Shapes: `lat` (H,), `lon` (W,), `lat_bnds` (H, 2), `lon_bnds` (W, 2); degrees.
    """

    lat: Array
    lon: Array
    lat_bnds: Array
    lon_bnds: Array

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return len(self.lat), len(self.lon)

    @property
    def is_global(self) -> bool:
        """True where the cells of a row cover all longitudes."""
        return abs(float(np.abs(np.diff(self.lon_bnds, axis=1)).sum()) - 360) < _SAME_DEG

    def to_dict(self) -> dict[str, list[Any]]:
        """Centres and edges as nested lists, ready for JSON."""
        return {field.name: getattr(self, field.name).tolist() for field in fields(self)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Grid":
        """Inverse of `to_dict`.

        Raises:
            ValueError: a coordinate is missing, unknown, not finite, or of another shape.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(content, Mapping) or set(content) != set(names):
            raise ValueError(f"a grid has {', '.join(names)}")
        arrays = {name: np.array(content[name]) for name in names}
        if wrong := [n for n, values in arrays.items() if values.dtype.kind not in "fi" or _holds_booleans(content[n])]:
            raise ValueError(f"grid.{wrong[0]} must hold numbers")
        grid = cls(**{name: values.astype(np.float64) for name, values in arrays.items()})
        rows, columns = grid.lat.size, grid.lon.size
        shapes = {"lat": (rows,), "lon": (columns,), "lat_bnds": (rows, 2), "lon_bnds": (columns, 2)}
        for name, shape in shapes.items():
            values = getattr(grid, name)
            if values.shape != shape or not values.size or not np.isfinite(values).all():
                raise ValueError(f"grid.{name} must hold {' × '.join(map(str, shape))} finite numbers")
            if np.abs(values).max() > (90 + _SAME_DEG if name.startswith("lat") else 1000):
                raise ValueError(f"grid.{name} holds {np.abs(values).max():g}, which is no angle")
        return grid

    def same_as(self, other: "Grid") -> bool:
        """True where both have the same cell edges, to 1e-4 degrees."""
        return self.shape == other.shape and all(
            np.allclose(a, b, rtol=0, atol=1e-4)
            for a, b in ((self.lat_bnds, other.lat_bnds), (self.lon_bnds, other.lon_bnds))
        )

    def same_centres(self, other: "Grid") -> bool:
        """True where both have the same cell centres, to 1e-3 degrees. Files without edges get midpoints as edges."""
        return self.shape == other.shape and all(
            np.allclose(a, b, rtol=0, atol=1e-3) for a, b in ((self.lat, other.lat), (self.lon, other.lon))
        )


def check_same_cells(grid: Grid, expected: Grid, what: str, other: str, fix: str) -> None:
    """Refuse a grid that differs from the expected one in its number of cells or in their positions.

    `what`: what lies on `grid`; `other`: what lies on `expected`; `fix`: what to do, for the message.

    Raises:
        UserError: names both grids.
    """
    if grid.shape != expected.shape:
        raise UserError(
            f"{what} lies on a grid of {grid.shape[0]} × {grid.shape[1]}, {other} on {expected.shape[0]} × "
            f"{expected.shape[1]}: {fix}"
        )
    if not grid.same_centres(expected):
        raise UserError(
            f"{what} has as many cells as {other} but other positions: latitudes from {grid.lat[0]:.3f}° to "
            f"{grid.lat[-1]:.3f}°, longitudes from {grid.lon[0]:.3f}°, instead of {expected.lat[0]:.3f}° to "
            f"{expected.lat[-1]:.3f}°, from {expected.lon[0]:.3f}°: {fix}"
        )


def midpoint_bounds(centres: Array, lower: float, upper: float) -> Array:
    """Cell edges (n, 2) halfway between ascending centres (n,); the outermost are `lower` and `upper` [degrees]."""
    edges = np.concatenate([[lower], (centres[1:] + centres[:-1]) / 2, [upper]])
    return np.stack([edges[:-1], edges[1:]], axis=-1)


def regular_grid(spacing_deg: float) -> Grid:
    """The global grid of spacing d as in ClimaX: latitudes -90+d/2 … 90-d/2, longitudes 0 … 360-d.

    Raises:
        UserError: the spacing does not divide 180 degrees, or is too small.
    """
    if 0 < spacing_deg < _SMALLEST_DEG:
        raise UserError(f"grid spacing {spacing_deg}° is below {_SMALLEST_DEG}°, the smallest; use for example 0.25")
    rows = round(180 / spacing_deg) if spacing_deg > 0 else 0
    if rows < 2 or abs(rows * spacing_deg - 180) > 1e-9:
        raise UserError(f"grid spacing {spacing_deg}° does not divide 180°; use for example 5.625, 1.40625 or 0.25")
    return uniform_grid(rows, 2 * rows)


def uniform_grid(rows: int, columns: int) -> Grid:
    """The global grid of this many equal rows and columns, placed as in ClimaX."""
    d_lat, d_lon = 180 / rows, 360 / columns
    lat: Array = -90 + d_lat * (np.arange(rows, dtype=np.float64) + 0.5)
    lon: Array = d_lon * np.arange(columns, dtype=np.float64)
    lon_bnds = np.stack([lon - d_lon / 2, lon + d_lon / 2], axis=-1)
    return Grid(lat=lat, lon=lon, lat_bnds=midpoint_bounds(lat, -90.0, 90.0), lon_bnds=lon_bnds)


def latitude_weights(grid: Grid, kind: str = "cell") -> Array:
    """Weights (H,) with mean 1: `cell` is sin(upper edge) - sin(lower edge), `cos` is cos(latitude) as in ClimaX.

    Raises:
        UserError: unknown kind.
    """
    if kind == "cell":
        sin_edges = np.sin(np.deg2rad(grid.lat_bnds))
        weights = sin_edges[:, 1] - sin_edges[:, 0]
    elif kind == "cos":
        weights = np.cos(np.deg2rad(grid.lat))
    else:
        raise UserError(f"latitude weights {kind!r}: use 'cell' or 'cos'")
    return weights / weights.mean()


def _holds_booleans(values: Any) -> bool:
    """True where a list holds true or false, which numpy takes for 1 and 0 among numbers."""
    return isinstance(values, bool) or (isinstance(values, list) and any(map(_holds_booleans, values)))
