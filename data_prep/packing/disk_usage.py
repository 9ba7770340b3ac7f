"""Expected disk usage of a pack: shards, climatologies, fields kept between the passes."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.packing.plan import PackPlan, SourcePlan
from climax_hpc.shards.chunk_layout import ChunkLayout, choose_layout
from climax_hpc.shards.climatology_index import climatology_index

# HDF5 headers, dimension scales and index, measured on shards and climatologies of 1 … 480 steps; accurate to 6 kB.
_FIXED_BYTES, _BYTES_PER_CHUNK = 20_000, 25


@dataclass(frozen=True, kw_only=True)
class DiskUsage:
    """Expected bytes; an upper bound with compression."""

    shards: dict[str, int]
    """Shard file -> bytes."""
    climatologies: dict[str, int]
    """Source name -> bytes; empty without climatology."""
    static: dict[str, int]
    """Source name -> bytes of its static fields."""
    kept: dict[str, int]
    """Shard file -> bytes of its fields between the passes; empty if they are not kept."""

    @property
    def needed(self) -> int:
        """Bytes of the finished data set and of the temporary file of the largest climatology."""
        climatologies = self.climatologies.values()
        files = (*self.shards.values(), *climatologies, *self.static.values())
        return sum(files) + max(climatologies, default=0)


def disk_usage_of(plan: PackPlan, config: PackConfig) -> DiskUsage:
    """Expected sizes of everything that a plan writes."""
    of_unit = [(unit.file, plan.sources[unit.source], unit.stop - unit.start) for unit in plan.work_units]
    return DiskUsage(
        shards={file: _bytes(source, steps, config.dtype, config) for file, source, steps in of_unit},
        climatologies={s.name: _bytes(s, _entries(s), "float32", config) for s in plan.sources if config.climatology},
        static={s.name: _FIXED_BYTES + len(s.static_channels) * _cells(s) * 4 for s in plan.sources},
        kept={f: steps * len(s.channels) * _cells(s) * 4 for f, s, steps in of_unit if config.keep_first_pass},
    )


def chunk_layout(source: SourcePlan, config: PackConfig) -> ChunkLayout:
    """Chunks of the shards and the climatology of a source."""
    shape = (len(source.channels), *source.target.grid.shape)
    return choose_layout(shape, np.dtype(config.dtype).itemsize, config.chunks)


def free_bytes(folder: Path) -> int:
    """Free bytes on the file system of a folder that may not exist yet."""
    return shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if os.path.isdir(path))).free


def _cells(source: SourcePlan) -> int:
    return int(np.prod(source.target.grid.shape))


def _bytes(source: SourcePlan, steps: int, dtype: str, config: PackConfig) -> int:
    inputs = json.dumps([{"file": file, "sha256": "0" * 64} for file in source.input_files()])
    layout = chunk_layout(source, config)
    chunks = steps * layout.per_step
    fields = chunks * layout.chunk_cells * np.dtype(dtype).itemsize
    return fields + len(inputs) + _FIXED_BYTES + _BYTES_PER_CHUNK * chunks


def _entries(source: SourcePlan) -> int:
    return len({*zip(*climatology_index(source.seconds, source.calendar, source.step_hours), strict=True)})
