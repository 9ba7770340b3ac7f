"""Stages `tiles_…`: every tile one step away from the present one, for each kernel of the aggregation.

Dimensions as in `kernels/variable_aggregation/op.py`.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.gpu_day.front_end import SIZES, TINY
from benchmarks.gpu_day.record import Record
from benchmarks.gpu_day.schedule import AGGREGATION
from benchmarks.gpu_day.timing import device, device_seconds
from climax_hpc.kernels.benchmarking import Stopwatch
from climax_hpc.kernels.testing import relative_error
from climax_hpc.kernels.variable_aggregation import tiles as shapes
from climax_hpc.kernels.variable_aggregation.bench import FrontEnd
from climax_hpc.kernels.variable_aggregation.op import build_maps

LIMITS = {"rows": (16, shapes.ROW_BLOCK), "warps": (1, 16), "stages": (1, 5), "planes": (1, 16)}
REHEARSED = 2
"""Tiles of a rehearsal, of which each takes a second."""
TOLERANCE = 1e-2  # sums of bfloat16 products in another order


def tiles(record: Record, grid: str) -> None:
    """Seconds of forward and backward pass in bfloat16 under each tile whose results are those of the present one."""
    size = (TINY if record.rehearsal else SIZES)[grid]
    bench = FrontEnd(size, Stopwatch(device=str(device())), torch.bfloat16)
    maps = [t.detach() for t in build_maps(*bench.parameters[:6], bench.heads)]
    forward = torch.ops.climax_hpc.aggregate_variables
    o_BLD, lse_BLN = forward(bench.x_BVHW, *maps, size.p)
    do_BLD = torch.randn_like(o_BLD)
    backward = partial(
        torch.ops.climax_hpc.aggregate_variables_backward, do_BLD, bench.x_BVHW, *maps, o_BLD, lse_BLN, size.p, False
    )
    passes = {"forward": lambda: forward(bench.x_BVHW, *maps, size.p), "backward": backward}
    for name, run in passes.items():
        used = tiles_of(run)
        expected = [t for t in run() if t is not None]
        trials = [(kernel, tile, other) for kernel, tile in used.items() for other in (tile, *neighbours(tile))]
        for kernel, tile, other in trials[:: max(1, len(trials) // REHEARSED)] if record.rehearsal else trials:
            label = "_".join(f"{field}{value}" for field, value in other._asdict().items())
            row = f"tile/{grid}_b{size.B}_bfloat16/{name}_device/{kernel}/{label}"
            with mock.patch.object(shapes, "tile", replaced(kernel, other)):
                measure(record, row, run, expected, present=tile == other)


def measure(
    record: Record, row: str, run: Callable[[], tuple[Tensor, ...]], expected: list[Tensor], present: bool
) -> None:
    """The row of one tile; none where it does not compile, does not fit, or gives other results."""
    try:
        found = [t for t in run() if t is not None]
        worst = max(relative_error(mine, theirs) for mine, theirs in zip(found, expected, strict=True))
        if worst > TOLERANCE:
            print(f"{row}: another result, by {worst:.1e}", flush=True)
            return
        time = device_seconds(run)
    except Exception as error:  # whatever compilers and drivers raise: no such layout, too much shared memory
        print(f"{row}: {type(error).__name__}: {str(error)[:200]}", flush=True)
        return
    record.add(row, time.median, "s", of=[AGGREGATION], p20=time.p20, p80=time.p80, present=present or None)


def tiles_of(run: Callable[[], Any]) -> dict[str, Any]:
    """The tile of each kernel that this run launches, by the kernel's name."""
    used: dict[str, Any] = {}
    choose = shapes.tile

    def noted(kernel: str, *arguments: Any) -> Any:
        used[kernel] = choose(kernel, *arguments)
        return used[kernel]

    with mock.patch.object(shapes, "tile", noted):
        run()
    return {kernel: tile for kernel, tile in used.items() if kernel not in ("pack", "unpack")}


def replaced(kernel: str, tile: Any) -> Callable[..., Any]:
    """`shapes.tile` with another tile for one kernel."""
    choose = shapes.tile
    return lambda name, *arguments: tile if name == kernel else choose(name, *arguments)


def neighbours(tile: Any) -> Iterator[Any]:
    """Tiles that differ in one number, twice or half as large, or one more or fewer stages."""
    for field, value in tile._asdict().items():
        least, most = LIMITS.get(field, (1, 16))
        for other in (value - 1, value + 1) if field == "stages" else (value // 2, value * 2):
            if least <= other <= most:
                yield tile._replace(**{field: other})


STAGES = {f"tiles_{grid}": partial(tiles, grid=grid) for grid in SIZES}
