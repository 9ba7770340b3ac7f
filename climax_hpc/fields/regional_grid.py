"""The domain of a regional model: the whole patches of a global grid that touch a region.

Regions rarely end on patch edges. A regional model works on the patches of the global grid that hold cells of its
region, so that every token and its position embedding is one of the global model's. Cells of these patches outside the
region are input where the data hold them, missing elsewhere, and never count in the loss.
Dimensions: H, W global grid · h, w domain · L patches of the domain, row-major.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.errors import UserError
from climax_hpc.fields.grid import Grid
from climax_hpc.fields.regions import PADDING, Cells, Crop, Index, Region, eastward, region_indices

_SAME_DEG = 1e-3  # files hold coordinates in single precision


@dataclass(frozen=True, kw_only=True, eq=False)
class Domain:
    """The patches of a global grid that hold cells of a region.

    Raises:
        UserError: the grid is not global, or not a multiple of the patch; see also `regions.region_indices`.
    """

    region: Region
    globe: Grid
    """The global grid; latitudes may ascend or descend."""
    patch: int
    """Patch edge in cells."""

    def __post_init__(self) -> None:
        rows, columns = self.globe.shape
        if not self.globe.is_global:
            raise UserError(
                f"data.region {self.region.name}: the region is cut out of a global grid, but the data are regional; "
                "fine-tune the checkpoint of a global model, or leave data.region out"
            )
        if rows % self.patch or columns % self.patch:
            raise UserError(
                f"data.region: a grid of {rows} × {columns} cells is not a multiple of patch size {self.patch}"
            )
        region_indices(self.globe, self.region)

    @cached_property
    def rows(self) -> Index:
        """Row of the global grid for each row (h,)."""
        rows, _ = region_indices(self.globe, self.region)
        return np.arange(rows[0] // self.patch * self.patch, -(-(rows[-1] + 1) // self.patch) * self.patch)

    @cached_property
    def columns(self) -> Index:
        """Column of the global grid for each column (w,), eastward; may wrap around the last column."""
        _, columns = region_indices(self.globe, self.region)
        width, patch = self.globe.shape[1], self.patch
        first = columns[0] // patch * patch
        end = -(-(columns[0] + len(columns)) // patch) * patch
        return (first + np.arange(min(end - first, width))) % width

    @cached_property
    def grid(self) -> Grid:
        """Cells (h, w) of the domain; longitudes ascend without a jump."""
        lon, lon_bnds = eastward(self.globe, self.columns)
        return Grid(lat=self.globe.lat[self.rows], lon=lon, lat_bnds=self.globe.lat_bnds[self.rows], lon_bnds=lon_bnds)

    @cached_property
    def cells(self) -> Cells:
        """Rows and columns of the domain that lie in the region."""
        rows, columns = region_indices(self.globe, self.region)
        return np.flatnonzero(np.isin(self.rows, rows)), np.flatnonzero(np.isin(self.columns, columns))

    @cached_property
    def inside_HW(self) -> NDArray[np.bool_]:
        """True (h, w) in the cells of the region, which count in loss and scores."""
        inside = np.zeros(self.grid.shape, bool)
        inside[np.ix_(*self.cells)] = True
        return inside

    @cached_property
    def region_grid(self) -> Grid:
        """The cells of the region."""
        return self.part(self.cells)

    def part(self, cells: Cells) -> Grid:
        """The grid of some of the domain's rows and columns."""
        (rows, columns), grid = cells, self.grid
        return Grid(
            lat=grid.lat[rows], lon=grid.lon[columns], lat_bnds=grid.lat_bnds[rows], lon_bnds=grid.lon_bnds[columns]
        )

    @property
    def patch_indices(self) -> Index:
        """Index (L,) of each patch of the domain among the patches of the global grid."""
        rows, columns = (index[:: self.patch] // self.patch for index in (self.rows, self.columns))
        return (rows[:, None] * (self.globe.shape[1] // self.patch) + columns).reshape(-1)

    def crop(self, grid: Grid, name: str) -> Crop:
        """Crop of a grid with the same cells, in any order, to the domain; missing where the grid lacks cells.

        Raises:
            UserError: the grid, that of `name`, lacks a cell of the region.
        """
        rows = _places(self.grid.lat, grid.lat, turn=None)
        columns = _places(self.grid.lon, grid.lon, turn=360.0)
        if (rows[self.cells[0]] == PADDING).any() or (columns[self.cells[1]] == PADDING).any():
            raise UserError(
                f"{name} lacks cells of region {self.region.name}, which needs {describe(self.region_grid)}; it has "
                f"{describe(grid)}. Give data on the grid of the global model, or on a part of it that holds the region"
            )
        return Crop(rows=rows, columns=columns, grid=self.grid)

    def to_dict(self) -> dict[str, Any]:
        """Region and global grid as plain JSON types; the patch is stored with the model."""
        return {"region": asdict(self.region), "globe": self.globe.to_dict()}

    @staticmethod
    def check_dict(content: Any) -> None:
        """Check what `from_dict` is given, except that the patch divides the grid.

        Raises:
            ValueError: a key is missing or has a value that it cannot have.
        """
        names = {field.name for field in fields(Region)}
        if set(content) != {"region", "globe"} or not isinstance(content["region"], dict):
            raise ValueError("a regional model has `region` and `globe`")
        if set(content["region"]) != names or any(
            type(value) not in ((str,) if key == "name" else (int, float)) for key, value in content["region"].items()
        ):
            raise ValueError(f"a region has {', '.join(sorted(names))}")
        Region(**content["region"])
        Grid.from_dict(content["globe"])

    @classmethod
    def from_dict(cls, content: dict[str, Any], patch: int) -> "Domain":
        """Inverse of `to_dict`."""
        return cls(region=Region(**content["region"]), globe=Grid.from_dict(content["globe"]), patch=patch)


def describe(grid: Grid) -> str:
    """Size and extent of a grid, for messages."""
    (rows, columns), lat, lon = grid.shape, grid.lat, grid.lon
    return f"{rows} × {columns} cells at {lat[0]:.2f} … {lat[-1]:.2f}° N, {lon[0]:.2f} … {lon[-1]:.2f}° E"


def same_domain(first: Domain, others: Sequence[Domain]) -> bool:
    """True where all have the same region, patch size and cells."""
    return all(d.region == first.region and d.patch == first.patch and d.grid.same_centres(first.grid) for d in others)


def _places(wanted: NDArray[np.float64], there: NDArray[np.float64], turn: float | None) -> Index:
    """Index in `there` of each coordinate in `wanted`, modulo `turn`; PADDING where it is absent."""
    distance = np.abs(wanted[:, None] - there)
    if turn:
        distance = np.minimum(distance % turn, turn - distance % turn)
    nearest = distance.argmin(axis=1)
    return np.where(distance.min(axis=1) < _SAME_DEG, nearest, PADDING)
