"""Named regions and boxes in degrees; their rows and columns in a grid, and crops of fields.

Shapes: H, W rows and columns of the whole grid; h, w those of the crop.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from climax_hpc.errors import UserError
from climax_hpc.fields.grid import Array, Grid

Index = NDArray[np.intp]
Cells = tuple[Index, Index]
"""Rows (h,) and columns (w,) of a region in a grid."""
_Any = TypeVar("_Any", bound=np.generic)
PADDING = -1  # index of a row or column of a crop that lies outside the whole grid: missing
_TOLERANCE_DEG = 1e-6  # rounding of coordinates; far below the size of a cell


@dataclass(frozen=True, kw_only=True)
class Region:
    """A box in latitude and longitude, edges included, eastward from `west` to `east`; it may cross any meridian.

    Raises:
        UserError: a box without area, or one that reaches beyond the poles.
    """

    name: str
    """Key of `REGIONS`, or `box`."""
    south: float
    """Southern edge [degrees north]."""
    north: float
    """Northern edge [degrees north]."""
    west: float
    """Western edge [degrees east], in -180 … 360."""
    east: float
    """Eastern edge [degrees east], in -180 … 360; below `west` where the box crosses the first meridian of a grid."""

    def __post_init__(self) -> None:
        if not -90 <= self.south < self.north <= 90:
            raise UserError(
                f"region {self.name}: south {self.south:g}° and north {self.north:g}° must ascend within ±90°"
            )
        if not all(-180 <= edge <= 360 for edge in (self.west, self.east)) or self.west == self.east:
            raise UserError(
                f"region {self.name}: west {self.west:g}°, east {self.east:g}°: give two longitudes in -180 … 360°"
            )

    @property
    def width_deg(self) -> float:
        """Extent in longitude [degrees], at most 360."""
        turn = (self.east - self.west) % 360.0
        return turn or 360.0


def _named(name: str, south: float, north: float, west: float, east: float) -> Region:
    return Region(name=name, south=south, north=north, west=west, east=east)


# NorthAmerica … Australia are the boxes of ClimaX's regional forecasts (its released code, v0.3.1); the others are not
# in ClimaX.
REGIONS: dict[str, Region] = {
    region.name: region
    for region in (
        _named("NorthAmerica", 15, 65, 220, 300),
        _named("SouthAmerica", -55, 20, 270, 330),
        _named("Europe", 30, 65, 0, 40),
        _named("SouthAsia", -15, 45, 25, 110),
        _named("EastAsia", 5, 65, 70, 150),
        _named("Australia", -50, 10, 100, 180),
        _named("Africa", -40, 40, -20, 55),
        _named("Arctic", 60, 90, 0, 360),
        _named("Antarctic", -90, -60, 0, 360),
    )
}


def region_of(chosen: str | list[float] | tuple[float, ...]) -> Region:
    """A region by name, or the box [south, north, west, east] in degrees.

    Raises:
        UserError: unknown name (names the nearest ones), or an invalid box.
    """
    if isinstance(chosen, str):
        if chosen not in REGIONS:
            near = get_close_matches(chosen, REGIONS, n=3, cutoff=0.5) or list(REGIONS)
            raise UserError(f"region: unknown region {chosen!r}; use {', '.join(near)} or [south, north, west, east]")
        return REGIONS[chosen]
    if len(chosen) != 4:
        raise UserError(f"region: {list(chosen)} is not a box; give [south, north, west, east] in degrees")
    south, north, west, east = (float(edge) for edge in chosen)
    return Region(name="box", south=south, north=north, west=west, east=east)


@dataclass(frozen=True, kw_only=True, eq=False)
class Crop:
    """A region cut out of a grid: `fields[..., rows, :][..., columns]`, missing where the index is PADDING."""

    rows: Index
    """Row of the whole grid for each row of the crop (h,)."""
    columns: Index
    """Column of the whole grid for each column of the crop (w,), eastward; may wrap around the last column."""
    grid: Grid
    """Cells of the crop; longitudes ascend without a jump, so they may be negative or exceed 360."""

    @property
    def padding(self) -> NDArray[np.bool_]:
        """True (h, w) where the whole grid has no cell."""
        return (self.rows == PADDING)[:, None] | (self.columns == PADDING)[None, :]

    def band(self, rows: tuple[int, int]) -> "Crop":
        """These of its rows: the first, and the one after the last."""
        return Crop(rows=self.rows[slice(*rows)], columns=self.columns, grid=band_of(self.grid, rows).grid)

    def apply(self, fields: NDArray[Any]) -> NDArray[Any]:
        """Fields (…, H, W) -> (…, h, w); NaN in the padding."""
        cut, padding = fields[..., self.rows[:, None], self.columns[None, :]], self.padding
        return np.where(padding, np.asarray(np.nan, cut.dtype), cut) if padding.any() else cut


def region_rows(lat: Array, region: Region) -> Index:
    """Rows (h,) with a centre in the region, in the order of `lat` (H,), which may ascend or descend."""
    inside = (lat >= region.south - _TOLERANCE_DEG) & (lat <= region.north + _TOLERANCE_DEG)
    return np.flatnonzero(inside)


def region_columns(lon: Array, region: Region) -> Index:
    """Columns (w,) with a centre in the region, from its west edge eastward; `lon` (W,) may start at any meridian."""
    east_of_edge = np.mod(lon - region.west + _TOLERANCE_DEG, 360.0)
    inside = np.flatnonzero(east_of_edge <= region.width_deg + 2 * _TOLERANCE_DEG)
    return inside[np.argsort(east_of_edge[inside], kind="stable")]


def cut(fields: NDArray[_Any], cells: Cells) -> NDArray[_Any]:
    """The cells (…, h, w) of a region out of fields (…, H, W)."""
    rows, columns = cells
    return fields[..., rows[:, None], columns[None, :]]


def region_indices(grid: Grid, region: Region) -> Cells:
    """Rows (h,) and columns (w,) of the cells of `grid` whose centres lie in the region.

    Raises:
        UserError: fewer than two rows or columns of the grid lie in the region.
    """
    rows, columns = region_rows(grid.lat, region), region_columns(grid.lon, region)
    if len(rows) < 2 or len(columns) < 2:
        raise UserError(
            f"region {region.name}: {region.south:g} … {region.north:g}° N, {region.west:g} … {region.east:g}° E holds "
            f"{len(rows)} rows and {len(columns)} columns of the grid; choose a larger region or a finer grid"
        )
    return rows, columns


def whole_patches(cells: Cells, patch: int, name: str) -> Cells:
    """The rows and columns of `cells` whose patches, `patch` cells wide and counted from 0, are there as a whole.

    Raises:
        UserError: there is none in the region `name`.
    """
    rows, columns = (_whole(index, patch) for index in cells)
    if not len(rows) or not len(columns):
        raise UserError(f"region_cells: region {name} contains no whole patch of {patch} × {patch} cells; use all")
    return rows, columns


def _whole(index: Index, patch: int) -> Index:
    count = np.bincount(index // patch)
    return index[count[index // patch] == patch]


def crop_to(grid: Grid, region: Region, multiple: int = 1) -> Crop:
    """Crop of a grid to a region, padded with missing cells to a multiple of the patch size `multiple`.

    Rows are added after the last one (northward where latitudes ascend) up to the pole, then before the first one;
    columns are added to the east.

    Raises:
        UserError: see `region_indices`; or the sphere has no room for the padding.
    """
    rows, columns = region_indices(grid, region)
    lon, lon_bnds = eastward(grid, columns)
    lat, lat_bnds = grid.lat[rows], grid.lat_bnds[rows]
    below, above = _row_padding(lat_bnds, -len(rows) % multiple, region)
    east = -len(columns) % multiple
    if lon_bnds[-1, 1] + east * (lon_bnds[-1, 1] - lon_bnds[-1, 0]) - lon_bnds[0, 0] > 360 + 1e-6:
        raise UserError(
            f"region {region.name}: {len(columns)} columns around the globe are not a multiple of the patch size "
            f"{multiple}; use another grid or patch size"
        )
    return Crop(
        rows=np.pad(rows, (below, above), constant_values=PADDING),
        columns=np.pad(columns, (0, east), constant_values=PADDING),
        grid=Grid(
            lat=_extended(lat, lat_bnds, below, above),
            lon=_extended(lon, lon_bnds, 0, east),
            lat_bnds=_extended_edges(lat_bnds, below, above),
            lon_bnds=_extended_edges(lon_bnds, 0, east),
        ),
    )


def band_of(grid: Grid, rows: tuple[int, int]) -> Crop:
    """Crop of a grid to all columns of a range of rows: first row, and the row after the last one.

    Raises:
        ValueError: the rows are no range of the grid.
    """
    first, stop = rows
    if not 0 <= first < stop <= grid.shape[0]:
        raise ValueError(f"rows {rows} are no range of a grid of {grid.shape[0]} rows")
    lat, lat_bnds = grid.lat[first:stop], grid.lat_bnds[first:stop]
    band = Grid(lat=lat, lon=grid.lon, lat_bnds=lat_bnds, lon_bnds=grid.lon_bnds)
    return Crop(rows=np.arange(first, stop), columns=np.arange(grid.shape[1]), grid=band)


def eastward(grid: Grid, columns: Index) -> tuple[Array, Array]:
    """Centres (w,) and edges (w, 2) of the columns, ascending without a jump; from -180 where they would exceed 360."""
    lon = grid.lon[columns]
    turns = np.concatenate([[0], np.cumsum(np.diff(lon) < 0)]) * 360.0
    if (lon + turns)[-1] >= 360:
        turns -= 360.0
    return lon + turns, grid.lon_bnds[columns] + turns[:, None]


def _row_padding(lat_bnds: Array, count: int, region: Region) -> tuple[int, int]:
    """Rows to add before the first and after the last one."""
    heights = [abs(lat_bnds[end, 1] - lat_bnds[end, 0]) for end in (0, -1)]
    ascending = lat_bnds[-1].mean() > lat_bnds[0].mean()
    southmost, northmost = (0, -1) if ascending else (-1, 0)
    to_pole = {southmost: lat_bnds[southmost].min() + 90, northmost: 90 - lat_bnds[northmost].max()}
    room = {end: int((to_pole[end] + _TOLERANCE_DEG) // heights[end]) for end in (0, -1)}
    above = min(count, room[-1])
    if count - above > room[0]:
        raise UserError(
            f"region {region.name}: {len(lat_bnds)} rows from pole to pole are not a multiple of the patch size; use "
            "another grid or patch size"
        )
    return count - above, above


def _extended(centres: Array, edges: Array, before: int, after: int) -> Array:
    """Centres with `before` and `after` more of them, spaced like the outermost cells."""
    widths = [_step(centres, edges, end) for end in (0, -1)]
    first = centres[0] - widths[0] * np.arange(before, 0, -1)
    last = centres[-1] + widths[1] * np.arange(1, after + 1)
    return np.concatenate([first, centres, last])


def _extended_edges(edges: Array, before: int, after: int) -> Array:
    """Edges (n, 2) with `before` and `after` more cells, as wide as the outermost ones."""
    centres = edges.mean(axis=1)
    widths = [_step(centres, edges, end) for end in (0, -1)]
    first = edges[0] - widths[0] * np.arange(before, 0, -1)[:, None]
    last = edges[-1] + widths[1] * np.arange(1, after + 1)[:, None]
    return np.concatenate([first, edges, last])


def _step(centres: Array, edges: Array, end: int) -> float:
    """Signed width of the first (0) or last (-1) cell: negative where the axis descends."""
    width = abs(edges[end, 1] - edges[end, 0])
    return float(np.copysign(width, centres[-1] - centres[0]))
