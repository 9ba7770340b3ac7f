"""Latitude-longitude cells of an input, and how its fields turn to ascending latitudes and longitudes from 0 to 360."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from climax_hpc.data_prep.sources.coordinates import Unusable
from climax_hpc.fields.grid import Grid, midpoint_bounds

Array = NDArray[np.float64]
_ROUNDING_DEG = 1e-3  # longitudes in files of single precision or few decimals; `Grid.same_centres` allows as much
_GAP = 1.75  # a step this much wider than both neighbours is a gap; spacing of stretched grids varies slowly


@dataclass(frozen=True, eq=False)
class Orientation:
    """How to bring fields (…, H, W) of an input into the order of `grid`."""

    grid: Grid
    flip: bool
    """True if rows run from north to south in the input."""
    roll: int
    """Columns to roll by, so that longitudes ascend from 0."""

    def apply(self, fields: Array) -> Array:
        """Fields (…, H, W) in ascending order."""
        if self.flip:
            fields = fields[..., ::-1, :]
        return np.roll(fields, self.roll, axis=-1) if self.roll else fields


def orient(
    lat: Array, lon: Array, lat_bnds: Array | None, lon_bnds: Array | None, regional: bool = False
) -> Orientation:
    """The grid of an input from its centres (H,), (W,) and, if known, cell edges (H, 2), (W, 2) [degrees].

    `regional`: a grid that covers a part of the globe is accepted; its columns start at its western end.

    Raises:
        Unusable: the coordinates are not monotonic, or not global unless `regional`.
    """
    if not (np.isfinite(lat).all() and np.isfinite(lon).all()) or len(lat) < 2 or len(lon) < 2:
        raise Unusable("its latitudes or longitudes are NaN, or fewer than two; regrid it with `cdo remapcon`")
    flip = bool(lat[0] > lat[-1])
    if flip:
        lat, lat_bnds = lat[::-1], None if lat_bnds is None else lat_bnds[::-1]
    if (np.diff(lat) <= 0).any() or abs(lat).max() > 90.0001:
        raise Unusable("its latitudes are not monotonic within ±90°; regrid it with `cdo remapcon`")
    _refuse_gaps(lat, "latitudes")
    if regional and not _is_global(lat, np.sort(_from_zero(lon))):
        return _orient_regional(lat, lon, lat_bnds, lon_bnds, flip)
    turned = _from_zero(lon)
    first = int(np.argmin(turned))
    ascending = np.roll(turned, -first)
    if len(np.unique(ascending)) < len(ascending):
        raise Unusable("its longitudes hold one meridian twice (a cyclic column); remove it, `ncks -d lon,0,-2`")
    if (np.diff(ascending) <= 0).any():
        raise Unusable("its longitudes do not run eastward once around the globe; regrid it with `cdo remapcon`")
    _refuse_gaps(ascending, "longitudes")
    _refuse_regional(lat, ascending)
    if lon_bnds is not None:
        lon_bnds = np.roll(lon_bnds, -first, axis=0) - np.roll(lon, -first)[:, None]
    grid = Grid(
        lat=np.ascontiguousarray(lat),
        lon=ascending,
        lat_bnds=_lat_edges(lat, lat_bnds),
        lon_bnds=_lon_edges(ascending, lon_bnds),
    )
    return Orientation(grid=grid, flip=flip, roll=-first)


def _from_zero(lon: Array) -> Array:
    """Longitudes from 0 to 360; those that are 0 but for rounding, such as -1e-6, stay at 0."""
    turned = np.mod(lon, 360.0)
    return np.where(turned > 360.0 - _ROUNDING_DEG, turned - 360.0, turned)


def _refuse_gaps(centres: Array, what: str) -> None:
    """Refuse ascending centres with a step far wider than both of its neighbours: cells are missing there."""
    steps = np.diff(centres)
    if len(steps) < 3:
        return
    beside = np.maximum(np.append(steps[1:], 0.0), np.insert(steps[:-1], 0, 0.0))
    wide = steps > _GAP * beside
    if wide.any():
        at = int(np.argmax(wide))
        raise Unusable(
            f"its {what} have a gap between {centres[at]:.2f}° and {centres[at + 1]:.2f}°, where the spacing is "
            f"{beside[at]:.2f}°; fill it with missing values, or split the file"
        )


def _is_global(lat: Array, lon: Array) -> bool:
    """True if rows reach the poles and columns, ascending from 0, go around the globe."""
    widest_row = np.diff(lat).max()
    widest_column = np.median(np.diff(lon))
    to_pole = max(lat[0] + 90, 90 - lat[-1])
    return bool(to_pole <= 1.5 * widest_row and lon[0] + 360 - lon[-1] <= 1.5 * widest_column)


def _refuse_regional(lat: Array, lon: Array) -> None:
    if not _is_global(lat, lon):
        raise Unusable(
            f"it covers only {lat[0]:.1f}…{lat[-1]:.1f}° N, {lon[0]:.1f}…{lon[-1]:.1f}° E; "
            "regional grids are packed only with `region`: use the global file, or set a region"
        )


def _orient_regional(lat: Array, lon: Array, lat_bnds: Array | None, lon_bnds: Array | None, flip: bool) -> Orientation:
    """A part of the globe: columns eastward from the western end of the part; its edges, or midpoints."""
    eastward = lon[0] + np.mod(lon - lon[0], 360.0)
    first = (int(np.argmax(np.diff(np.append(eastward, eastward[0] + 360.0)))) + 1) % len(lon)
    if first:  # columns stored as -180 … -160, 160 … 178 are one part of the globe, across the dateline
        lon, lon_bnds = np.roll(lon, -first), None if lon_bnds is None else np.roll(lon_bnds, -first, axis=0)
        eastward = lon[0] + np.mod(lon - lon[0], 360.0)
    if (np.diff(eastward) <= 0).any():
        raise Unusable("its longitudes do not run eastward; regrid it with `cdo remapcon`")
    _refuse_gaps(eastward, "longitudes")
    if eastward[-1] >= 360:
        eastward = eastward - 360.0
    if lon_bnds is not None:
        lon_bnds = lon_bnds - lon[:, None] + eastward[:, None]
    return Orientation(
        grid=Grid(
            lat=np.ascontiguousarray(lat),
            lon=eastward,
            lat_bnds=np.clip(_part_edges(lat, lat_bnds), -90, 90),
            lon_bnds=_part_edges(eastward, lon_bnds),
        ),
        flip=flip,
        roll=-first,
    )


def _part_edges(centres: Array, bnds: Array | None) -> Array:
    """The stated edges (n, 2) if they are consistent, else midpoints, and half a cell beyond the outermost centres."""
    if bnds is not None:
        edges = np.sort(bnds, axis=1)
        if _are_consistent(edges, centres):
            return contiguous(edges, edges[0, 0], edges[-1, 1])
    first, last = centres[1] - centres[0], centres[-1] - centres[-2]
    return midpoint_bounds(centres, centres[0] - first / 2, centres[-1] + last / 2)


def _lat_edges(lat: Array, bnds: Array | None) -> Array:
    """The stated edges (H, 2) if they are consistent, else midpoints; the outermost are at the poles."""
    if bnds is not None:
        edges = np.clip(np.sort(bnds, axis=1), -90, 90)
        if _are_consistent(edges, lat):
            return contiguous(edges, -90.0, 90.0)
    return midpoint_bounds(lat, -90.0, 90.0)


def _are_consistent(edges: Array, centres: Array) -> bool:
    """True if sorted edges (n, 2) are contiguous and enclose their centres, to a thousandth of a cell."""
    tolerance = 1e-3 * np.diff(centres).min()
    touching = np.allclose(edges[1:, 0], edges[:-1, 1], rtol=0, atol=tolerance)
    return bool(touching and (edges[:, 0] <= centres + tolerance).all() and (edges[:, 1] >= centres - tolerance).all())


def contiguous(edges: Array, lower: float, upper: float) -> Array:
    """Edges (n, 2) made exactly contiguous, from `lower` to `upper`."""
    inner = edges[1:, 0]
    line = np.concatenate([[lower], inner, [upper]])
    return np.stack([line[:-1], line[1:]], axis=-1)


def _lon_edges(lon: Array, offsets: Array | None) -> Array:
    """Edges (W, 2) around ascending centres; `offsets`: stated edges minus centres, modulo 360°."""
    if offsets is not None:
        near = np.sort(np.mod(offsets + 180.0, 360.0) - 180.0, axis=1)
        edges = lon[:, None] + near
        following = np.append(edges[1:, 0], edges[0, 0] + 360)
        if np.allclose(edges[:, 1], following, rtol=0, atol=1e-3 * np.diff(lon).min()) and (near[:, 0] <= 0).all():
            return contiguous(edges, edges[0, 0], edges[0, 0] + 360)
    between = (lon + np.append(lon[1:], lon[0] + 360)) / 2
    return midpoint_bounds(lon, between[-1] - 360, between[-1])
