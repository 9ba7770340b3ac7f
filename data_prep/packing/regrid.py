"""Exact first-order conservative and periodic bilinear regridding of rectilinear grids: two banded 1-D weight matrices.

Shapes: H, W source rows and columns; I, J target rows and columns; K, L bandwidths; N fields.
A target row overlaps only a few neighbouring source rows, so each weight matrix is stored as a band and applied as
element-wise products in a fixed order. That takes fewer operations than a dense matrix product and, unlike BLAS
(measured), gives the same bits for any number of threads. Work is done in groups whose source rows, partial sums and
terms fit the second-level cache together: some small fields, or some target rows of a large one.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.fields.grid import Grid

Array = NDArray[np.float64]
Fields = NDArray[np.floating[Any]]
_NEGLIGIBLE = 1e-10  # smaller shares of a cell are rounding of the edges, not overlap
_GROUP_BYTES = 1 << 20  # source rows, partial sums and terms of a group; second-level caches have 1 MiB or more


@dataclass(frozen=True, eq=False)
class Band:
    """The non-zero band of a weight matrix (targets, sources)."""

    index: NDArray[np.intp]
    """Source cell (K, targets) of each term."""
    weight: Array
    """Its weight (K, targets); targets with fewer terms are padded with 0."""

    def dense(self, sources: int) -> Array:
        """The matrix (targets, sources)."""
        matrix = np.zeros((self.index.shape[1], sources))
        for index, weight in zip(self.index, self.weight, strict=True):
            np.add.at(matrix, (np.arange(len(index)), index), weight)
        return matrix


@dataclass(frozen=True, eq=False)
class Regridder:
    """Maps fields from one grid to another; build it with `regridder`."""

    rows: Band
    columns: Band
    identity: bool

    def __call__(self, fields_NHW: Fields) -> Fields:
        """Fields (N, H, W) -> float64 (N, I, J); unchanged fields if both grids are the same; NaN = missing.

        A target cell is NaN only if no source cell under it is valid.
        """
        if self.identity:
            return fields_NHW
        out = self._apply(fields_NHW)
        # A missing value spreads to every target that it touches, so the small result shows which fields have one.
        # Only those are recomputed with weights: the bits of a field do not depend on the others in the stack.
        incomplete = np.isnan(out).any(axis=(1, 2))
        if incomplete.any():
            missing = np.isnan(fields_NHW[incomplete])
            total = self._apply(np.where(missing, 0.0, fields_NHW[incomplete]))
            covered = self._apply((~missing).astype(np.float64))
            out[incomplete] = np.divide(total, covered, out=np.full_like(total, np.nan), where=covered > 0)
        return out

    def _apply(self, fields_NHW: Fields) -> Array:
        """Weighted sums (N, I, J); latitude first, since gathering along that axis copies whole rows."""
        count, height, width = fields_NHW.shape
        rows, columns = self.rows.index.shape[1], self.columns.index.shape[1]
        out_NIJ = np.empty((count, rows, columns))
        size, step = _group(count, rows, 8 * (width * height // rows + 2 * width + 2 * columns))
        by_row, term_row = np.empty((2, size * step * width))
        term = np.empty(size * step * columns)
        for first in range(0, count, size):
            n = min(size, count - first)
            for i in range(0, rows, step):
                some = slice(i, min(i + step, rows))
                index, weight = self.rows.index[:, some], self.rows.weight[:, some, None]
                lower, upper = index.min(), index.max() + 1
                # Fields of another type or order are converted here, where they stay in the cache.
                fields = np.ascontiguousarray(fields_NHW[first : first + n, lower:upper], np.float64)
                by_row_niW, term_niW, term_niJ = (
                    buffer[: n * index.shape[1] * last].reshape(n, -1, last)
                    for buffer, last in ((by_row, width), (term_row, width), (term, columns))
                )
                _sum_terms(fields, index - lower, weight, 1, by_row_niW, term_niW)
                out = out_NIJ[first : first + n, some]
                _sum_terms(by_row_niW, self.columns.index, self.columns.weight[:, None, :], 2, out, term_niJ)
        return out_NIJ


def _group(count: int, rows: int, row_bytes: int) -> tuple[int, int]:
    """Fields and target rows that are worked on together: all rows of some fields, or some rows of one field.

    `row_bytes`: what a target row of a field needs in the cache.
    """
    together = max(1, _GROUP_BYTES // row_bytes)
    parts = -(-rows // together)
    return max(1, min(count, together // rows)), -(-rows // parts)


def _sum_terms(x: Array, index: NDArray[np.intp], weight: Array, axis: int, total: Array, term: Array) -> None:
    """Write to `total` the sum over k of weight[k] times x gathered at index[k]; `term` is a buffer for one term."""
    np.take(x, index[0], axis=axis, out=total, mode="clip")  # mode "raise" would gather into a hidden copy first
    total *= weight[0]
    for k in range(1, len(index)):
        np.take(x, index[k], axis=axis, out=term, mode="clip")
        term *= weight[k]
        total += term


def regridder(source: Grid, target: Grid, method: str) -> Regridder:
    """The map from `source` to `target`, `conservative` or `bilinear`; built once per pair of grids."""
    return _cached(_key(source), _key(target), method)


def _key(grid: Grid) -> tuple[bytes, ...]:
    return tuple(np.ascontiguousarray(a).tobytes() for a in (grid.lat, grid.lon, grid.lat_bnds, grid.lon_bnds))


@lru_cache(maxsize=64)
def _cached(source_key: tuple[bytes, ...], target_key: tuple[bytes, ...], method: str) -> Regridder:
    source, target = (_grid(key) for key in (source_key, target_key))
    if method == "conservative":
        rows = _row_overlap(source.lat_bnds, target.lat_bnds)
        columns = _column_overlap(source.lon_bnds, target.lon_bnds)
    else:
        rows = _row_interpolation(source.lat, target.lat)
        columns = _column_interpolation(source.lon, target.lon)
    return Regridder(rows=_band(rows), columns=_band(columns), identity=source.same_as(target))


def _grid(key: tuple[bytes, ...]) -> Grid:
    lat, lon, lat_bnds, lon_bnds = (np.frombuffer(part) for part in key)
    return Grid(lat=lat, lon=lon, lat_bnds=lat_bnds.reshape(-1, 2), lon_bnds=lon_bnds.reshape(-1, 2))


def _overlap(source_edges: Array, target_edges: Array) -> Array:
    """Length that target and source intervals share (targets, sources)."""
    upper = np.minimum(target_edges[:, 1, None], source_edges[None, :, 1])
    lower = np.maximum(target_edges[:, 0, None], source_edges[None, :, 0])
    return np.clip(upper - lower, 0, None)


def _row_overlap(source_bnds: Array, target_bnds: Array) -> Array:
    """Shares of area (I, H): the area of a row is proportional to the difference of sin(latitude)."""
    source, target = np.sin(np.deg2rad(source_bnds)), np.sin(np.deg2rad(target_bnds))
    return _normalised(_overlap(source, target), target[:, 1] - target[:, 0])


def _column_overlap(source_bnds: Array, target_bnds: Array) -> Array:
    """Shares of longitude (J, W), periodic."""
    shared = sum(_overlap(source_bnds + turn, target_bnds) for turn in (-360.0, 0.0, 360.0))
    return _normalised(np.asarray(shared), target_bnds[:, 1] - target_bnds[:, 0])


def _normalised(shared: Array, size: Array) -> Array:
    share = shared / size[:, None]
    share[share < _NEGLIGIBLE] = 0
    return share / share.sum(axis=1, keepdims=True)


def _row_interpolation(source: Array, target: Array) -> Array:
    """Linear weights (I, H); constant beyond the outermost rows."""
    return _linear(source, np.clip(target, source[0], source[-1]), len(source))


def _column_interpolation(source: Array, target: Array) -> Array:
    """Linear weights (J, W), periodic."""
    ring = np.concatenate([[source[-1] - 360], source, [source[0] + 360]])
    weights = _linear(ring, source[0] + np.mod(target - source[0], 360), len(ring))
    weights[:, -2] += weights[:, 0]
    weights[:, 1] += weights[:, -1]
    return weights[:, 1:-1]


def _linear(points: Array, at: Array, count: int) -> Array:
    left = np.clip(np.searchsorted(points, at, side="right") - 1, 0, count - 2)
    share = (at - points[left]) / (points[left + 1] - points[left])
    weights = np.zeros((len(at), count))
    weights[np.arange(len(at)), left] = 1 - share
    weights[np.arange(len(at)), left + 1] += share
    return weights


def _band(matrix: Array) -> Band:
    """The non-zero entries of each row, padded with weight 0 on one of the row's own cells."""
    width = int((matrix > 0).sum(axis=1).max())
    order = np.argsort(matrix <= 0, axis=1, kind="stable")[:, :width]
    weight = np.take_along_axis(matrix, order, axis=1)
    index = np.where(weight > 0, order, order[:, :1])
    return Band(index=np.ascontiguousarray(index.T), weight=np.ascontiguousarray(weight.T))
