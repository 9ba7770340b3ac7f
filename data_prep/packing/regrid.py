"""Exact first-order conservative and periodic bilinear regridding of rectilinear grids: two banded 1-D weight matrices.

Shapes: H, W source rows and columns; I, J target rows and columns; K, L bandwidths; N fields.
A target row overlaps only a few neighbouring source rows, so each weight matrix is stored as a band and applied as
sums in a fixed order. That takes fewer operations than a dense matrix product and, unlike BLAS (measured), gives the
same bits for any number of threads. What limits it is not arithmetic but passes over the data: rows are therefore
multiplied and added in one pass (`_sum_rows`), of which each target row costs a call; rows of few numbers and columns
are gathered, multiplied and added term by term (`_sum_terms`), which costs three passes. Work is done in blocks of
fields and target rows, whose partial sums stay in the second-level cache.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.fields.grid import Grid

Array = NDArray[np.float64]
Fields = NDArray[np.floating[Any]]
_NEGLIGIBLE = 1e-10  # smaller shares of a cell are rounding of the edges, not overlap
_BLOCK_BYTES = 1 << 19  # partial sums of a block; second-level caches of server cores have 1 MiB or more
_ROW_BYTES = 1 << 18  # partial sums of one target row of all fields of a block
_NUMBERS_PER_CALL = 640  # K·W: with fewer, one call for each target row takes longer than three passes (measured)


@dataclass(frozen=True, eq=False)
class Band:
    """The non-zero band of a weight matrix (targets, sources)."""

    index: NDArray[np.intp]
    """Source cell (K, targets) of each term."""
    weight: Array
    """Its weight (K, targets); targets with fewer terms are padded with 0."""

    @cached_property
    def runs(self) -> list[tuple[slice, Array]]:
        """Of each target: the source cells from its first to its last one, and their weights."""
        runs = []
        for index, weight in zip(self.index.T, self.weight.T, strict=True):
            used = index[weight != 0]  # the rest pads
            first, last = used.min(), used.max()
            dense = np.zeros(last - first + 1)
            np.add.at(dense, index - first, weight)
            runs.append((slice(first, last + 1), dense))
        return runs

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
        """Weighted sums (N, I, J); latitude first, since source rows lie in memory as they are read."""
        count, _, width = fields_NHW.shape
        rows, columns = self.rows.index.shape[1], self.columns.index.shape[1]
        out_NIJ = np.empty((count, rows, columns))
        # The choice depends on the grids alone, not on N: the bits of a field do not depend on the others in the stack.
        in_runs = len(self.rows.index) * width >= _NUMBERS_PER_CALL
        size, step = _block(count, rows, 8 * max(width, columns), in_runs)
        by_row, term_row = np.empty((2, size * step * width))
        total, term = np.empty((2, size * step * columns))
        for first in range(0, count, size):
            n = min(size, count - first)
            for i in range(0, rows, step):
                some = slice(i, min(i + step, rows))
                index = self.rows.index[:, some]
                by_row_niW, term_niW, total_niJ, term_niJ = (
                    buffer[: n * index.shape[1] * last].reshape(n, -1, last)
                    for buffer, last in ((by_row, width), (term_row, width), (total, columns), (term, columns))
                )
                lower = int(index.min())
                fields_nhW = fields_NHW[first : first + n, lower : index.max() + 1]
                if in_runs:
                    _sum_rows(fields_nhW, lower, self.rows.runs[some], by_row_niW)
                else:
                    source_nhW = np.ascontiguousarray(fields_nhW, np.float64)
                    _sum_terms(source_nhW, index - lower, self.rows.weight[:, some, None], 1, by_row_niW, term_niW)
                out_niJ = out_NIJ[first : first + n, some]
                if out_niJ.flags.c_contiguous:  # else np.take would write to a hidden copy for every term
                    total_niJ = out_niJ
                weight_L1J = self.columns.weight[:, None, :]
                _sum_terms(by_row_niW, self.columns.index, weight_L1J, 2, total_niJ, term_niJ)
                if total_niJ is not out_niJ:
                    out_niJ[...] = total_niJ
        return out_NIJ


def _block(count: int, rows: int, row_bytes: int, in_runs: bool) -> tuple[int, int]:
    """Fields and target rows that are worked on together; `row_bytes`: partial sums of one row of one field.

    In runs: some rows of many fields, since a call serves all fields of a row. Else all rows of few fields, if they
    fit, so that nothing is copied.
    """
    least_bytes, most_bytes = (row_bytes, _ROW_BYTES) if in_runs else (rows * row_bytes, _BLOCK_BYTES)
    size = min(max(1, count), max(1, most_bytes // least_bytes))
    return size, min(rows, max(1, _BLOCK_BYTES // (size * row_bytes)))


def _sum_rows(fields_nhW: Fields, lower: int, runs: list[tuple[slice, Array]], total_niW: Array) -> None:
    """Write to `total` the weighted sum of source rows of each run; `lower`: the source row that `fields` begin with.

    einsum adds in the order of the rows where columns are next to each other in memory, as they are made to be here.
    """
    if fields_nhW.dtype != np.float64 or sorted(fields_nhW.strides, reverse=True) != list(fields_nhW.strides):
        fields_nhW = np.ascontiguousarray(fields_nhW, np.float64)
    for i, (rows, weight_h) in enumerate(runs):
        run_nhW = fields_nhW[:, rows.start - lower : rows.stop - lower]
        np.einsum("h,nhw->nw", weight_h, run_nhW, out=total_niW[:, i])


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
