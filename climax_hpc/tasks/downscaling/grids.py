"""The grid of a downscaling model, the fine grid with a margin, and interpolation of coarse fields to it.

Dimensions: B samples · C channels · h, w coarse grid · H, W fine grid · I, J model grid (fine grid and margin).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from climax_hpc.data_prep.packing.regrid import regridder
from climax_hpc.errors import UserError
from climax_hpc.fields.grid import Array, Grid

METHODS = ("bilinear", "nearest")


@dataclass(frozen=True, kw_only=True, eq=False)
class PaddedGrid:
    """The grid of the model: the fine grid in the middle of a margin whose targets are missing.

    The margin makes any region a whole number of patches. It also separates the western from the eastern edge for
    networks that treat longitude as periodic.
    """

    fine: Grid
    grid: Grid
    """All cells of the model."""
    rows: slice
    columns: slice

    def cut(self, fields: Any) -> Any:
        """Fields (…, I, J) on the fine grid."""
        return fields[..., self.rows, self.columns]

    def extended(self, fields: NDArray[Any]) -> NDArray[Any]:
        """Fields (…, H, W) with the values of the outermost cells in the margin."""
        (above, below), (west, east) = (
            _margins(self.rows, self.grid.shape[0]),
            _margins(self.columns, self.grid.shape[1]),
        )
        width = [(0, 0)] * (fields.ndim - 2) + [(above, below), (west, east)]
        return np.pad(fields, width, mode="edge")

    def place(self, fields_BCHW: Tensor) -> Tensor:
        """Fields (B, C, H, W) on the grid of the model, missing in the margin."""
        if self.fine.shape == self.grid.shape:
            return fields_BCHW
        placed = fields_BCHW.new_full((*fields_BCHW.shape[:2], *self.grid.shape), torch.nan)
        placed[..., self.rows, self.columns] = fields_BCHW
        return placed


def _margins(place: slice, size: int) -> tuple[int, int]:
    return place.start, size - place.stop


def pad_grid(fine: Grid, height: int, width: int, name: str) -> PaddedGrid:
    """The model grid of `height` × `width` cells around the fine grid of a source called `name`.

    Raises:
        UserError: the model grid is smaller than the fine grid, or its margin crosses a pole or laps the globe.
    """
    found = f"source {name} lies on a fine grid of {fine.shape[0]} × {fine.shape[1]}, the model on {height} × {width}: "
    if height < fine.shape[0] or width < fine.shape[1]:
        raise UserError(f"{found}set model.height and model.width to these or, for a region, to more")
    is_round = fine.lon_bnds[-1, 1] - fine.lon_bnds[0, 0] > 360 - 1e-6
    if is_round and (height, width) != fine.shape:
        raise UserError(
            f"{found}a grid around the globe takes no margin: set model.height and model.width to the fine grid"
        )
    (lat, lat_bnds, rows), (lon, lon_bnds, columns) = (
        _extended(fine.lat, fine.lat_bnds, height),
        _extended(fine.lon, fine.lon_bnds, width),
    )
    if abs(lat_bnds).max() > 90 + 1e-6 or lon_bnds[-1, 1] - lon_bnds[0, 0] > 360 + 1e-6:
        raise UserError(f"{found}the margin would cross a pole or lap the globe: use a smaller grid")
    return PaddedGrid(
        fine=fine,
        grid=Grid(lat=lat, lon=lon, lat_bnds=lat_bnds, lon_bnds=lon_bnds),
        rows=rows,
        columns=columns,
    )


def _extended(centres: Array, edges: Array, size: int) -> tuple[Array, Array, slice]:
    """Centres and edges of `size` cells with the given ones in the middle, margins spaced as the outermost cells."""
    before = (size - len(centres)) // 2
    after = size - len(centres) - before
    first, last = edges[0, 1] - edges[0, 0], edges[-1, 1] - edges[-1, 0]
    shifts = first * np.arange(-before, 0), last * np.arange(1, after + 1)
    return (
        np.concatenate([centres[0] + shifts[0], centres, centres[-1] + shifts[1]]),
        np.concatenate([edges[:1] + shifts[0][:, None], edges, edges[-1:] + shifts[1][:, None]]),
        slice(before, before + len(centres)),
    )


class Interpolator:
    """Coarse fields (B, C, h, w) -> (B, C, I, J) on a fine grid; constant beyond the outermost cells of a region."""

    def __init__(
        self, coarse: Grid, target: Grid, *, method: str = "bilinear", dtype: torch.dtype, device: torch.device
    ) -> None:
        if method == "bilinear":
            bands = regridder(coarse, target, "bilinear")
            rows, columns = bands.rows.dense(coarse.shape[0]), bands.columns.dense(coarse.shape[1])
        else:
            rows, columns = _nearest(coarse.lat, target.lat), _nearest(coarse.lon, target.lon, turn=360.0)
        self._rows_Ih = torch.as_tensor(rows, dtype=dtype, device=device)
        self._columns_wJ = torch.as_tensor(columns.T, dtype=dtype, device=device)

    def __call__(self, fields_BChw: Tensor) -> Tensor:
        """Interpolate over the cells that are not missing; missing if none of them is valid."""
        whole_BCIJ = self._apply(fields_BChw)
        missing = fields_BChw.isnan()
        some = missing.any()
        if some.device.type == "cpu" and not some:
            return whole_BCIJ
        total_BCIJ = self._apply(fields_BChw.masked_fill(missing, 0.0))
        covered_BCIJ = self._apply((~missing).to(fields_BChw.dtype))
        part_BCIJ = torch.where(covered_BCIJ > 1e-6, total_BCIJ / covered_BCIJ, torch.nan)
        return torch.where(some, part_BCIJ, whole_BCIJ)  # on a GPU, so that the host need not wait for `some`

    def _apply(self, fields_BChw: Tensor) -> Tensor:
        return self._rows_Ih @ fields_BChw @ self._columns_wJ


def _nearest(points: Array, at: Array, turn: float | None = None) -> Array:
    """Weights (targets, sources): 1 at the nearest source; `turn` is the period of a circular axis [degrees]."""
    distance = np.abs(at[:, None] - points[None, :])
    if turn is not None:
        distance = np.minimum(distance % turn, turn - distance % turn)
    weights = np.zeros(distance.shape)
    weights[np.arange(len(at)), distance.argmin(axis=1)] = 1.0
    return weights
