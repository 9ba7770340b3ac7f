"""Named regions and boxes in degrees; which rows and columns of a grid lie in one, and the grid of the cut.

Shapes: H, W rows and columns of the whole grid; h, w of the cut.
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
PADDING = -1  # index of a row or column that the whole grid does not give: missing
_TOLERANCE_DEG = 1e-6  # float noise of coordinates; far below any cell


@dataclass(frozen=True, kw_only=True)
class Region:
    """A box in latitude and longitude, edges included; it runs eastward from `west` to `east`, over any meridian.

    Raises:
        UserError: a box without area, or beyond the poles.
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
    """Eastern edge [degrees east], in -180 … 360; below `west` where the box crosses the meridian of the numbering."""

    def __post_init__(self) -> None:
        if not -90 <= self.south < self.north <= 90:
            raise UserError(f"region {self.name}: latitudes {self.south:g} … {self.north:g}° do not ascend within ±90°")
        if not all(-180 <= edge <= 360 for edge in (self.west, self.east)) or self.west == self.east:
            raise UserError(f"region {self.name}: longitudes {self.west:g} … {self.east:g}° must be two in -180 … 360")

    @property
    def width_deg(self) -> float:
        """Extent in longitude [degrees], at most 360."""
        turn = (self.east - self.west) % 360.0
        return turn or 360.0


def _named(name: str, south: float, north: float, west: float, east: float) -> Region:
    return Region(name=name, south=south, north=north, west=west, east=east)


# NorthAmerica … Australia: the boxes of the regional forecasts of ClimaX (released implementation, v0.3.1).
# Africa, Arctic and Antarctic are additions.
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
        UserError: no such name, with the nearest; a box that is none.
    """
    if isinstance(chosen, str):
        if chosen not in REGIONS:
            near = get_close_matches(chosen, REGIONS, n=3, cutoff=0.5) or list(REGIONS)
            raise UserError(f"region: no region {chosen!r}; there are {', '.join(near)}, or [south, north, west, east]")
        return REGIONS[chosen]
    if len(chosen) != 4:
        raise UserError(f"region: {list(chosen)} is not [south, north, west, east] in degrees")
    south, north, west, east = (float(edge) for edge in chosen)
    return Region(name="box", south=south, north=north, west=west, east=east)


@dataclass(frozen=True, kw_only=True, eq=False)
class Crop:
    """The cut of a region out of a grid: `fields[..., rows, :][..., columns]`, missing where the index is PADDING."""

    rows: Index
    """Row of the whole grid of each row of the cut (h,)."""
    columns: Index
    """Column of the whole grid of each column of the cut (w,), eastward, over the seam of the numbering."""
    grid: Grid
    """Cells of the cut; longitudes ascend without a jump, so they may be negative or pass 360."""

    def apply(self, fields: NDArray[Any]) -> NDArray[Any]:
        """Fields (…, H, W) -> (…, h, w); NaN in padding."""
        cut = fields[..., self.rows[:, None], self.columns[None, :]]
        padding = (self.rows == PADDING)[:, None] | (self.columns == PADDING)[None, :]
        return np.where(padding, np.asarray(np.nan, cut.dtype), cut) if padding.any() else cut


def region_rows(lat: Array, region: Region) -> Index:
    """Rows (h,) of ascending or descending latitudes (H,) whose centre lies in the region, in the order of `lat`."""
    inside = (lat >= region.south - _TOLERANCE_DEG) & (lat <= region.north + _TOLERANCE_DEG)
    return np.flatnonzero(inside)


def region_columns(lon: Array, region: Region) -> Index:
    """Columns (w,) of longitudes (W,), in any numbering, whose centre lies in the region, from its west edge on."""
    east_of_edge = np.mod(lon - region.west + _TOLERANCE_DEG, 360.0)
    inside = np.flatnonzero(east_of_edge <= region.width_deg + 2 * _TOLERANCE_DEG)
    return inside[np.argsort(east_of_edge[inside], kind="stable")]


def cut(fields: NDArray[_Any], cells: Cells) -> NDArray[_Any]:
    """The cells (…, h, w) of a region out of fields (…, H, W)."""
    rows, columns = cells
    return fields[..., rows[:, None], columns[None, :]]


def region_indices(grid: Grid, region: Region) -> Cells:
    """(rows (h,), columns (w,)) of the cells of `grid` whose centres lie in the region.

    Raises:
        UserError: the region holds fewer than two rows or columns of the grid.
    """
    rows, columns = region_rows(grid.lat, region), region_columns(grid.lon, region)
    if len(rows) < 2 or len(columns) < 2:
        raise UserError(
            f"region {region.name}: {region.south:g} … {region.north:g}° N, {region.west:g} … {region.east:g}° E holds "
            f"{len(rows)} rows and {len(columns)} columns of the grid; take a larger region or a finer grid"
        )
    return rows, columns


def crop_to(grid: Grid, region: Region, multiple: int = 1) -> Crop:
    """The region's cut of a grid, padded with missing cells to a multiple of the patch size `multiple`.

    Rows are added beyond the last one (northward where latitudes ascend), then before the first one, as far as the
    poles; columns are added to the east.

    Raises:
        UserError: see `region_indices`; no room for the padding on the sphere.
    """
    rows, columns = region_indices(grid, region)
    lon, lon_bnds = eastward(grid, columns)
    lat, lat_bnds = grid.lat[rows], grid.lat_bnds[rows]
    below, above = _row_padding(lat_bnds, -len(rows) % multiple, region)
    east = -len(columns) % multiple
    if lon_bnds[-1, 1] + east * (lon_bnds[-1, 1] - lon_bnds[-1, 0]) - lon_bnds[0, 0] > 360 + 1e-6:
        raise UserError(
            f"region {region.name}: {len(columns)} columns round the globe are no multiple of the patch size {multiple}"
            "; use another grid or patch size"
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


def eastward(grid: Grid, columns: Index) -> tuple[Array, Array]:
    """Centres and edges of the columns, numbered without a jump; from -180 upward where they would pass 360."""
    lon = grid.lon[columns]
    turns = np.concatenate([[0], np.cumsum(np.diff(lon) < 0)]) * 360.0
    if (lon + turns)[-1] >= 360:
        turns -= 360.0
    return lon + turns, grid.lon_bnds[columns] + turns[:, None]


def _row_padding(lat_bnds: Array, count: int, region: Region) -> tuple[int, int]:
    """Rows to add before the first and beyond the last one."""
    heights = [abs(lat_bnds[end, 1] - lat_bnds[end, 0]) for end in (0, -1)]
    ascending = lat_bnds[-1].mean() > lat_bnds[0].mean()
    southmost, northmost = (0, -1) if ascending else (-1, 0)
    to_pole = {southmost: lat_bnds[southmost].min() + 90, northmost: 90 - lat_bnds[northmost].max()}
    room = {end: int((to_pole[end] + _TOLERANCE_DEG) // heights[end]) for end in (0, -1)}
    above = min(count, room[-1])
    if count - above > room[0]:
        raise UserError(
            f"region {region.name}: {len(lat_bnds)} rows from pole to pole are no multiple of the patch size; use "
            "another grid or patch size"
        )
    return count - above, above


def _extended(centres: Array, edges: Array, before: int, after: int) -> Array:
    """Centres with `before` and `after` more, spaced as the outermost cells."""
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
