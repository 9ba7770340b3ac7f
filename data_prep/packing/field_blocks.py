"""Reads the fields of a source from its files and regrids them, block by block.

Shapes: T time steps, C channels, H rows, W columns of the target grid.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.data_prep.packing.context import PackContext
from climax_hpc.data_prep.packing.plan import Series, SourcePlan
from climax_hpc.data_prep.packing.target_grid import TargetGrid
from climax_hpc.data_prep.sources.input_root import Root
from climax_hpc.data_prep.sources.open_input import opened, set_chunk_cache
from climax_hpc.data_prep.sources.read_file import InputFile, prefetch_fields, read_fields
from climax_hpc.data_prep.stores.store_list import StoreList
from climax_hpc.fields.grid import Grid

Array = NDArray[np.float64]
Fields = NDArray[np.float32]
_BLOCK_BYTES = 64 << 20  # float64 fields of all channels of one block, on the finer of the two grids
_MAX_BLOCK = 64


def read_blocks(context: PackContext, source: SourcePlan, start: int, stop: int) -> Iterator[tuple[int, Fields]]:
    """Regridded fields of steps start … stop-1 in registry units, block by block as (first step, (T, C, H, W)).

    Memory is bounded by the block, independent of the size of files and shards. float32 is the precision of CMIP6
    files.
    """
    target = source.target
    cells = max(
        int(np.prod(grid.shape))
        for grid in (target.grid, *(f.orientation.grid for s in source.series for f in s.all_files()))
    )
    size = steps_per_block(cells, source)
    beyond = len(source.seconds) if context.ranks == 1 else stop  # read ahead into the next unit
    with _OpenFiles(context.plan.root) as files:
        for first in range(start, stop, size):
            for series in source.series:  # this block's chunks in the order of their use, then the next one's
                _prefetch(files, series, first, min(first + size, stop))
            for series in source.series:
                _prefetch(files, series, min(first + size, stop), min(first + 2 * size, beyond))
            last = min(first + size, stop)
            fields_TCHW = np.empty((last - first, len(source.channels), *target.grid.shape), np.float32)
            for series in source.series:
                at = [source.channels.index(name) for name in series.channels]
                fields_TCHW[:, at] = _read_series(context, files, series, first, last, target)
            yield first, fields_TCHW


def steps_per_block(cells: int, source: SourcePlan) -> int:
    """Time steps of one block for fields with that many cells."""
    return int(np.clip(_BLOCK_BYTES // (8 * cells * len(source.channels)), 1, _MAX_BLOCK))


def _read_series(
    context: PackContext, files: "_OpenFiles", series: Series, first: int, last: int, target: TargetGrid
) -> NDArray[Any]:
    """One variable over a range of steps, across file boundaries: (T, levels, H, W)."""
    parts = []
    for grid, fields in _native(files, series, first, last):
        stacked = target.mapping(grid, context.config.regrid)(fields.reshape(-1, *fields.shape[2:]))
        parts.append(stacked.reshape(*fields.shape[:2], *target.grid.shape))
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _native(files: "_OpenFiles", series: Series, first: int, last: int) -> Iterator[tuple[Grid, Array]]:
    """A range of steps on the grid of the files, in runs of consecutive steps of one file: (T, levels, H, W).

    Derived variables are computed here, before regridding, because they are not linear in their ingredients.
    """
    if series.derivation is not None:
        parts = [np.concatenate([f for _, f in _native(files, i, first, last)]) for i in series.ingredients]
        pressure_pa = 100.0 * np.array(series.levels, np.float64)[:, None, None]
        yield series.files[0].orientation.grid, series.derivation.compute(*parts, pressure_pa)
        return
    for source, start, stop in _runs(series, first, last):
        yield source.orientation.grid, read_fields(files.open(source), source, series.levels, start, stop)


def _runs(series: Series, first: int, last: int) -> Iterator[tuple[InputFile, int, int]]:
    """A range of steps as runs of consecutive steps of one file: the file, its first step, and the one behind."""
    file_of, step_of = series.file_of_step[first:last], series.step_in_file[first:last]
    breaks = np.flatnonzero((np.diff(file_of) != 0) | (np.diff(step_of) != 1)) + 1
    for run in np.split(np.arange(last - first), breaks):
        yield series.files[file_of[run[0]]], int(step_of[run[0]]), int(step_of[run[-1]]) + 1


def _prefetch(files: "_OpenFiles", series: Series, first: int, last: int) -> None:
    """Start to read a range of steps from stores on the network."""
    if not files.on_network or first >= last:
        return
    for part in series.ingredients or [series]:
        for source, start, stop in _runs(part, first, last):
            prefetch_fields(files.open(source), source, part.levels, start, stop)


class _OpenFiles:
    """The input files that a work unit has open, one per variable at a time."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._open: dict[str, tuple[str, Any, ExitStack]] = {}

    @property
    def on_network(self) -> bool:
        """True where reading ahead pays."""
        return isinstance(self._root, StoreList)

    def __enter__(self) -> "_OpenFiles":
        return self

    def __exit__(self, *_: object) -> None:
        for _file, _dataset, stack in self._open.values():
            stack.close()

    def open(self, source: InputFile) -> Any:
        """The open data set of a file; closes the variable's previous file."""
        held = self._open.get(source.variable_id)
        if held is not None and held[0] == source.file:
            return held[1]
        if held is not None:
            held[2].close()
        stack = ExitStack()
        dataset = stack.enter_context(opened(self._root / source.file, source.file))
        set_chunk_cache(dataset, source.name)
        self._open[source.variable_id] = (source.file, dataset, stack)
        return dataset
