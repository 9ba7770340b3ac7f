"""The target grid of a source (regular or its own, global or a region), and regridding from partial coverage.

Shapes: N fields; H, W rows and columns of the source; I, J rows and columns of the target.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.packing.regrid import regridder
from climax_hpc.errors import UserError
from climax_hpc.fields.grid import Grid, regular_grid
from climax_hpc.fields.regions import PADDING, crop_to

Mask = NDArray[np.bool_]
Fields = NDArray[np.floating[Any]]
_SLIVER = 1e-6  # share of a cell; smaller overlaps are rounding of the edges


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetGrid:
    """The grid of the packed fields of a source."""

    grid: Grid
    """All cells, padding included."""
    rows: Mask
    """(I,), False for padding, which stays missing."""
    columns: Mask
    """(J,), False for padding."""

    def mapping(self, source: Grid, method: str) -> Callable[[Fields], Fields]:
        """The map from fields (N, H, W) on `source` to (N, I, J); cells that the source does not cover are NaN."""
        rows = self.rows & _covered_rows(source, self.grid, method)
        columns = self.columns & _covered_columns(source, self.grid, method)
        if rows.all() and columns.all():
            return regridder(source, self.grid, method)
        inner = Grid(
            lat=self.grid.lat[rows],
            lon=self.grid.lon[columns],
            lat_bnds=self.grid.lat_bnds[rows],
            lon_bnds=self.grid.lon_bnds[columns],
        )
        covered = regridder(source, inner, method) if rows.any() and columns.any() else None
        rows_and_columns: tuple[Any, ...] = np.ix_(rows, columns)

        def apply(fields_NHW: Fields) -> Fields:
            out = np.full((len(fields_NHW), *self.grid.shape), np.nan)
            if covered is not None:
                out[:, *rows_and_columns] = covered(fields_NHW)
            return out

        return apply


def target_of(config: PackConfig, name: str, native: list[Grid]) -> TargetGrid:
    """The target grid of a source whose files have the `native` grids.

    Raises:
        UserError: the source should keep its own grid but has several; the region is outside the source.
    """
    if config.grid_spacing_deg is None:
        whole = native[0]
        if not all(whole.same_as(other) for other in native[1:]):
            shapes = sorted({"×".join(map(str, grid.shape)) for grid in native})
            raise UserError(
                f"{name}: its variables have several grids ({', '.join(shapes)}), so none can be kept; set "
                "grid_spacing_deg, or leave some variables out with `variables`"
            )
    else:
        whole = regular_grid(config.grid_spacing_deg)
    if config.box is None:
        return TargetGrid(grid=whole, rows=np.ones(len(whole.lat), bool), columns=np.ones(len(whole.lon), bool))
    crop = crop_to(whole, config.box, config.pad_to)
    target = TargetGrid(grid=crop.grid, rows=crop.rows != PADDING, columns=crop.columns != PADDING)
    for source in native:
        if not (
            _covered_rows(source, crop.grid, config.regrid).any()
            and _covered_columns(source, crop.grid, config.regrid).any()
        ):
            raise UserError(
                f"region: {config.box.name} is outside {name}, which covers {source.lat_bnds.min():.1f} … "
                f"{source.lat_bnds.max():.1f}° N, {source.lon_bnds.min():.1f} … {source.lon_bnds.max():.1f}° E; "
                "choose another region"
            )
    return target


def _covered_rows(source: Grid, target: Grid, method: str) -> Mask:
    """Target rows (I,) that the source covers: a part of the cell, or for `bilinear` its centre."""
    lower, upper = source.lat_bnds.min(), source.lat_bnds.max()
    if method == "bilinear":
        return (target.lat >= lower - 1e-9) & (target.lat <= upper + 1e-9)
    shared = np.minimum(target.lat_bnds[:, 1], upper) - np.maximum(target.lat_bnds[:, 0], lower)
    return shared > _SLIVER * (target.lat_bnds[:, 1] - target.lat_bnds[:, 0])


def _covered_columns(source: Grid, target: Grid, method: str) -> Mask:
    """Target columns (J,) that the source covers: a part of the cell, or for `bilinear` its centre."""
    if source.is_global:
        return np.ones(len(target.lon), bool)
    if method == "bilinear":
        return np.mod(target.lon - source.lon[0] + 1e-9, 360) <= source.lon[-1] - source.lon[0] + 2e-9
    lower, upper = source.lon_bnds[0, 0], source.lon_bnds[-1, 1]
    width = target.lon_bnds[:, 1] - target.lon_bnds[:, 0]
    shared = [
        np.minimum(target.lon_bnds[:, 1] + turn, upper) - np.maximum(target.lon_bnds[:, 0] + turn, lower)
        for turn in (-720.0, -360.0, 0.0, 360.0, 720.0)
    ]
    return np.max(shared, axis=0) > _SLIVER * width
