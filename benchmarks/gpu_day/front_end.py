"""Stages of the variable aggregation: errors against float64 at the timed sizes, then seconds of every form.

Dimensions as in `kernels/variable_aggregation/op.py`.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_day.record import Record
from benchmarks.gpu_day.schedule import AGGREGATION
from benchmarks.gpu_day.timing import Run, copies, device, device_seconds, poison, seconds
from climax_hpc.kernels.benchmarking import Stopwatch, Timing
from climax_hpc.kernels.roofline import FrontEndSize
from climax_hpc.kernels.testing import poisoned_memory, relative_error, scatter_missing
from climax_hpc.kernels.variable_aggregation.bench import FrontEnd, Size
from climax_hpc.kernels.variable_aggregation.op import build_maps

SIZES = {"32x64": Size(B=16, H=32, W=64, p=2), "128x256": Size(B=16, H=128, W=256, p=4)}
TINY = {"32x64": Size(B=2, V=5, H=4, W=8, p=2, D=32, N=2), "128x256": Size(B=1, V=5, H=8, W=8, p=4, D=16, N=1)}
# Three roundings to bfloat16 (pixels, weights, heads' outputs) of 2^-9 each, and a sum over D of them behind the output
# projection; float32: the project's bound for kernels, widened as in the bench for gradients of many patches.
TOLERANCE = {torch.bfloat16: 1.5e-2, torch.float32: 2e-5}
GRADIENTS = ("patch weight", "patch bias", "embedding", "query", "in weight", "in bias", "out weight", "out bias")


def front_end(record: Record, grid: str, dtype: torch.dtype) -> None:
    """Errors first; seconds only of forms whose errors are in bounds."""
    size = (TINY if record.rehearsal else SIZES)[grid]
    label = f"{grid}_b{size.B}_{str(dtype).removeprefix('torch.')}"
    bench = FrontEnd(size, Stopwatch(device=str(device())), dtype)
    if not correct(record, label, bench, missing=True) or not correct(record, label, bench, missing=False):
        return
    operator_rows(record, label, bench, size)
    for form in ("ours", "unfused", "textbook"):
        form_rows(record, f"front_end/{label}", form, bench, getattr(bench, form), size, graph=form != "textbook")


def correct(record: Record, label: str, bench: FrontEnd, missing: bool) -> bool:
    """Output and every gradient against float64, twice the same bits, poisoned memory; whether all is in bounds."""
    complete, part = bench.x_BVHW, "missing" if missing else "complete"
    if missing:
        bench.x_BVHW = scatter_missing(complete.cpu(), bench.parameters[0].shape[-1]).to(complete.device)
    truth = FrontEnd.__new__(FrontEnd)
    truth.watch, truth.heads, truth.dtype = bench.watch, bench.heads, torch.float64
    truth.x_BVHW, truth.probe = bench.x_BVHW.double(), bench.probe.double()
    truth.parameters = [t.detach().double().requires_grad_() for t in bench.parameters]
    expected = results(truth, truth.unfused)
    poison(complete.device)
    with poisoned_memory():
        ours, again = (results(bench, bench.ours) for _ in range(2))
    worst = 0.0
    for name, mine, theirs in zip(("output", *GRADIENTS), ours, expected, strict=True):
        error = relative_error(mine, theirs)
        worst = max(worst, error)
        record.add(f"error/front_end/{label}/{part}/{name}", error, "1", form="ours", of=[AGGREGATION])
    same = all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))
    record.add(f"same_bits/front_end/{label}/{part}", float(same), "1", of=[AGGREGATION])
    bench.x_BVHW = complete
    passed = same and worst < TOLERANCE[bench.dtype]
    return record.check(f"front_end/{label}/{part}", passed, of=[AGGREGATION], tolerance=TOLERANCE[bench.dtype])


def results(bench: FrontEnd, form: Callable[[], Tensor]) -> list[Tensor]:
    """Output and gradients."""
    output = form()
    return [output.detach(), *torch.autograd.grad(output, bench.parameters, bench.probe)]


def operator_rows(record: Record, label: str, bench: FrontEnd, size: Size) -> None:
    """The operator alone, pixels and maps to heads' outputs, as the device runs it and as Python launches it."""
    maps = build_maps(*bench.parameters[:6], bench.heads)
    maps_detached = [t.detach() for t in maps]
    forward = torch.ops.climax_hpc.aggregate_variables
    backward = torch.ops.climax_hpc.aggregate_variables_backward
    o_BLD, lse_BLN = forward(bench.x_BVHW, *maps_detached, size.p)
    number = copies(bench.x_BVHW.nbytes + o_BLD.nbytes)
    images = [bench.x_BVHW, *(bench.x_BVHW.clone() for _ in range(number - 1))]
    outputs = [(torch.randn_like(o_BLD), o_BLD.clone(), lse_BLN.clone()) for _ in images]

    def backwards(wants_dx: bool) -> list[Run]:
        return [
            partial(backward, do_BLD, x_BVHW, *maps_detached, o_BLD, lse_BLN, size.p, wants_dx)
            for x_BVHW, (do_BLD, o_BLD, lse_BLN) in zip(images, outputs, strict=True)
        ]

    passes: dict[str, list[Run]] = {
        "forward": [partial(forward, x_BVHW, *maps_detached, size.p) for x_BVHW in images],
        "backward": backwards(False), "backward_with_dx": backwards(True),
    }  # fmt: skip
    roofline = FrontEndSize(
        "", B=size.B, V=size.V, H=size.H, W=size.W, p=size.p, D=size.D, N=size.N, itemsize=bench.x_BVHW.itemsize
    )
    work = {"forward": roofline.forward(), "backward": roofline.backward()}
    for name, runs in passes.items():
        limit = record.limit(work[name].flop, work[name].bytes) if name in work else None
        timed(record, f"aggregate/{label}/{name}_device", "ours", device_seconds(*runs), limit=limit, of=[AGGREGATION])
        timed(record, f"aggregate/{label}/{name}", "ours", seconds(*runs), limit=limit, of=[AGGREGATION])


def timed(record: Record, name: str, form: str, found: Timing, **more: Any) -> None:
    """One row of seconds."""
    record.add(f"{name}/{form}", found.median, "s", form=form, p20=found.p20, p80=found.p80, **more)


def form_rows(
    record: Record, name: str, form: str, bench: FrontEnd, run: Callable[[], Tensor], size: Size, graph: bool
) -> None:
    """Seconds of the forward and of the forward and backward pass of one form, and its peak memory."""
    limit = record.limit(size.flop(), size.nbytes(bench.x_BVHW.itemsize)) if bench.dtype == torch.bfloat16 else None
    of = [AGGREGATION] if form == "ours" else []
    try:
        bench.step(run)()
        peak = bench.inspect(run).peak_bytes
        forwards, steps = rotated(bench, run, backward=False), rotated(bench, run, backward=True)
        timed(record, f"{name}/forward", form, seconds(*forwards), of=of)
        timed(record, f"{name}/step", form, seconds(*steps), limit=limit, of=of)
        record.add(f"{name}/step/peak_memory/{form}", peak, "B", form=form, of=of)
        if graph:
            timed(record, f"{name}/step_device", form, device_seconds(*steps), limit=limit, of=of)
    except torch.OutOfMemoryError as error:
        print(f"{name}: {form} does not fit: {str(error)[:200]}", flush=True)
        torch.cuda.empty_cache()


def rotated(bench: FrontEnd, form: Callable[[], Tensor], backward: bool) -> list[Run]:
    """The form, or its forward and backward pass, on several equal images and gradients of the output."""
    number = copies(bench.x_BVHW.nbytes + bench.probe.nbytes)
    inputs = [(bench.x_BVHW, bench.probe), *((bench.x_BVHW.clone(), bench.probe.clone()) for _ in range(number - 1))]

    def turn(x_BVHW: Tensor, probe: Tensor) -> object:
        bench.x_BVHW = x_BVHW
        return torch.autograd.grad(form(), bench.parameters, probe) if backward else form()

    return [partial(turn, *pair) for pair in inputs]


def compiled_textbook(record: Record, grid: str, times: bool = True) -> None:
    """The textbook form under torch.compile, in bfloat16.

    Args:
        times: False: compile only, which fills the cache on disk for the stage that takes the times.
    """
    dtype = torch.bfloat16
    size = (TINY if record.rehearsal else SIZES)[grid]
    label = f"{grid}_b{size.B}_bfloat16"
    bench = FrontEnd(size, Stopwatch(device=str(device())), dtype)
    run = torch.compile(bench.textbook, backend="eager" if record.rehearsal else "inductor")
    if times:
        form_rows(record, f"front_end/{label}", "textbook_compiled", bench, run, size, graph=False)
    else:
        start = time.perf_counter()
        bench.step(run)()
        record.add(f"compile/front_end/{label}", time.perf_counter() - start, "s")


STAGES = {
    f"front_end_{grid}_{name}": partial(front_end, grid=grid, dtype=dtype)
    for grid, name, dtype in (
        ("32x64", "bf16", torch.bfloat16), ("128x256", "bf16", torch.bfloat16), ("32x64", "float32", torch.float32),
    )
} | {
    f"{name}_textbook_{grid}": partial(compiled_textbook, grid=grid, times=name == "compiled")
    for name in ("compile", "compiled") for grid in SIZES
}  # fmt: skip
