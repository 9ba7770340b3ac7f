"""`climax-hpc pack --dry_run true`: what would be packed, unit by unit, with its size; nothing is written."""

import json
import os
import shutil
from pathlib import Path

import numpy as np

from climax_hpc.data_prep.calendars import iso
from climax_hpc.data_prep.climatology import slots_of
from climax_hpc.data_prep.pack import Job
from climax_hpc.data_prep.worklist import SourcePlan, Unit

# HDF5's headers, dimension scales and index: measured on shards and climatologies of 1 … 480 steps, within 6 kB.
_FIXED_BYTES, _BYTES_PER_STEP = 20_000, 25


def tell(job: Job) -> None:
    """Print sources, units and expected sizes; the job needs no hashes of its inputs."""
    shards = climatologies = 0
    for number, source in enumerate(job.plan.sources):
        files = source.input_files()
        read = sum((Path(job.plan.root) / file).stat().st_size for file in files)
        print(
            f"{source.name}: {len(source.channels)} channels, {len(source.static_channels)} static, "
            f"{len(source.seconds)} steps ({source.frequency}, {source.calendar}), {len(source.stretch_starts) - 1} gaps; "
            f"{len(files)} input files, {read / 1e6:.1f} MB"
        )
        for unit in (unit for unit in job.plan.units if unit.source == number):
            size = expected_bytes(job, source, unit.stop - unit.start, job.config.dtype)
            print(f"  {unit.file}: {unit.stop - unit.start} steps, {_span(source, unit)}, {size / 1e6:.1f} MB")
            shards += size
        if job.config.climatology:
            slots = len({*zip(*slots_of(source.seconds, source.calendar, source.step_hours), strict=True)})
            climatologies += expected_bytes(job, source, slots, "float32")
    kept = shards * 4 // np.dtype(job.config.dtype).itemsize if job.config.keep_first_pass else 0
    at_most = "at most " if job.config.compression != "none" else ""
    free = shutil.disk_usage(next(p for p in (job.output, *job.output.parents) if os.path.isdir(p))).free
    print(
        f"{len(job.plan.sources)} sources, {len(job.plan.units)} units: {at_most}{shards / 1e6:.1f} MB of shards, "
        f"{climatologies / 1e6:.1f} MB of climatologies, {kept / 1e6:.1f} MB of fields kept between the passes; "
        f"{free / 1e6:.1f} MB are free in {job.output}. Dry run: nothing was written",
        flush=True,
    )


def expected_bytes(job: Job, source: SourcePlan, steps: int, dtype: str) -> int:
    """Size of a shard, or of a climatology of that many slots; with compression the most that it can take."""
    cells = int(np.prod(source.target.grid.shape))
    inputs = json.dumps([{"file": file, "sha256": "0" * 64} for file in source.input_files()])
    fields = steps * len(source.channels) * cells * np.dtype(dtype).itemsize
    static = len(source.static_channels) * cells * 4
    return fields + static + len(inputs) + _FIXED_BYTES + _BYTES_PER_STEP * steps


def _span(source: SourcePlan, unit: Unit) -> str:
    return " … ".join(iso(source.seconds[i], source.calendar) for i in (unit.start, unit.stop - 1))
