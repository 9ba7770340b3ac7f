"""Front end (pixels -> z, map rebuild and output projection included): op against textbook and unfused form.

Dimensions as in `op.py`. Run by `climax-hpc bench kernels`; forward and backward.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from climax_hpc.kernels.benchmarking import Inspection, Machine, Row, Stopwatch, check_same, inspect, step
from climax_hpc.kernels.variable_aggregation.op import aggregate_variables, build_maps
from climax_hpc.kernels.variable_aggregation.reference import tokenise_and_aggregate
from climax_hpc.kernels.variable_aggregation.unfused import aggregate_variables_unfused

# float32: two forms, each within 1e-5 of the float64 truth (tests/kernels), over sums of up to 3e4 patches.
# bfloat16: each within 6e-3 (tests), the textbook form's scores at large head widths within a few times that.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 5e-2}
SLOPE_FEW, SLOPE_TEXTBOOK, SLOPE_OURS = 5, 24, 160  # number of variables between which the slope is taken
MAX_SECONDS = 120.0  # a form that would take longer than this, or more than half of the memory, is left out
GRIDS = {5.625: (32, 64, 2), 1.40625: (128, 256, 4), 0.25: (720, 1440, 8)}
"""Rows, columns and patch edge by grid spacing [degrees]."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Sizes of one front end."""

    B: int = 2
    V: int = 48
    H: int
    W: int
    p: int
    D: int = 1024
    N: int = 16

    @property
    def patches(self) -> int:
        """Of all samples."""
        return self.B * self.H * self.W // self.p**2

    def textbook_flop(self) -> float:
        """Keys and values of every token, forward and backward."""
        return 12 * self.patches * self.V * self.D**2

    def textbook_bytes(self) -> float:
        """Peak memory: five arrays of the size of all tokens (measured: 4.9 at 128×256)."""
        return 5 * 4 * self.patches * self.V * self.D

    def unfused_bytes(self) -> float:
        """Peak memory: the operand of all heads, its gradient, and the weights."""
        return 3 * 4 * self.patches * self.N * self.V * (self.p**2 + 2)

    def flop(self) -> float:
        """Forward and backward (three products each) of scores, values, output projection and map rebuild."""
        columns = self.V * (self.p**2 + 1)
        R = self.patches
        return 3 * (2 * R * columns * (self.N + self.D) + 2 * R * self.D**2 + 2 * columns * self.D * (self.D + self.N))

    def nbytes(self, itemsize: int = 4) -> float:
        """Image read twice; o, z and their gradients written and read."""
        return itemsize * (2 * self.B * self.V * self.H * self.W + 8 * self.patches * self.D)


SIZES = {
    "front_end_32x64": Size(H=32, W=64, p=2),
    "front_end_128x256": Size(H=128, W=256, p=4),
    "front_end_720x1440": Size(V=100, H=720, W=1440, p=8),
}


class FrontEnd:
    """One size with its image, parameters and the three forms."""

    def __init__(self, size: Size, watch: Stopwatch, dtype: torch.dtype) -> None:
        draw = torch.Generator().manual_seed(0)
        V, D, p = size.V, size.D, size.p
        shapes = [(V, D, p, p), (V, D), (V, D), (D,), (3 * D, D), (3 * D,), (D, D), (D,)]
        parameters = [torch.randn(s, generator=draw) * s[-1] ** -0.5 for s in shapes]
        self.parameters = [t.to(watch.device).requires_grad_() for t in parameters]
        self.x_BVHW = torch.randn(size.B, V, size.H, size.W, generator=draw).to(watch.device, dtype)
        patches = size.patches // size.B
        self.probe = torch.randn(size.B, patches, D, generator=draw).to(watch.device, dtype)
        self.heads, self.watch, self.dtype = size.N, watch, dtype

    def ours(self) -> Tensor:
        """The product's form."""
        return self._absorbed(aggregate_variables)

    def unfused(self) -> Tensor:
        """The absorbed form with its operand in memory."""
        return self._absorbed(aggregate_variables_unfused)

    def textbook(self) -> Tensor:
        """Every token in memory, as in the released ClimaX."""
        weight_VDpp, bias, embed, query, in_weight, in_bias, out_weight, out_bias = (
            t.to(self.dtype) for t in self.parameters
        )
        return tokenise_and_aggregate(
            self.x_BVHW, weight_VDpp, bias, embed, query, in_weight, in_bias, out_weight, out_bias, self.heads
        )

    def _absorbed(self, aggregate: Callable[..., Tensor]) -> Tensor:
        weight_VDpp, bias, embed, query, in_weight, in_bias, out_weight, out_bias = self.parameters
        maps = build_maps(weight_VDpp, bias, embed, query, in_weight, in_bias, self.heads)
        o_BLD = aggregate(self.x_BVHW, *maps, weight_VDpp.shape[-1])
        return F.linear(o_BLD, out_weight.to(self.dtype), out_bias.to(self.dtype))

    def inspect(self, form: Callable[[], Tensor]) -> Inspection:
        """Results and memory of forward and backward."""
        return inspect(form, self.parameters, self.probe, watch=self.watch)

    def step(self, form: Callable[[], Tensor]) -> Callable[[], object]:
        """Forward and backward, to be timed."""
        return step(form, self.parameters, self.probe)

    def check_a_corner(self, case: str) -> None:
        """Hold ours against the textbook on a corner of the image, of which the textbook's tokens fit in memory."""
        whole_BVHW, whole_probe = self.x_BVHW, self.probe
        edge = self.parameters[0].shape[-1]
        self.x_BVHW = whole_BVHW[:1, :, : 2 * edge, : 4 * edge].contiguous()
        self.probe = whole_probe[:1, :8].contiguous()
        try:
            ours, theirs = (self.inspect(form).results for form in (self.ours, self.textbook))
            check_same(f"{case}, a corner against textbook", ours, theirs, TOLERANCE[self.dtype])
        finally:
            self.x_BVHW, self.probe = whole_BVHW, whole_probe


def rows_of(case: str, size: Size, watch: Stopwatch, machine: Machine, dtype: torch.dtype = torch.float32) -> list[Row]:
    """All rows of one size: time and memory against the other forms where they fit, the input and the roofline."""
    bench = FrontEnd(size, watch, dtype)
    forms = {"textbook": bench.textbook, "unfused": bench.unfused}
    inspected = {}
    ours = bench.inspect(bench.ours)
    for name in affordable(case, size, watch, machine):
        inspected[name] = bench.inspect(forms[name])
        check_same(f"{case} against {name}", ours.results, inspected[name].results, TOLERANCE[dtype])
        inspected[name].results.clear()
    if "textbook" not in inspected:
        bench.check_a_corner(case)
    ours.results.clear()
    runs = {"ours": bench.step(bench.ours), **{name: bench.step(forms[name]) for name in inspected}}
    times = watch.times(runs, {name: found.seconds for name, found in {"ours": ours, **inspected}.items()})
    mine = times.pop("ours")
    medians = {name: time.median for name, time in times.items()}
    rows = machine.time_rows(case, mine, medians, flop=size.flop(), nbytes=size.nbytes(bench.x_BVHW.itemsize))
    return [*rows, *machine.memory_rows(case, ours, inspected, bench.x_BVHW.nbytes)]


def affordable(case: str, size: Size, watch: Stopwatch, machine: Machine) -> list[str]:
    """The forms to compare with whose memory and time the machine has; says which are left out."""
    memory = free_memory(watch.device) / 2
    needs = {
        "textbook": (size.textbook_bytes(), size.textbook_flop() / machine.flop_per_second),
        "unfused": (size.unfused_bytes(), 0.0),
    }
    fitting = [name for name, (nbytes, seconds) in needs.items() if nbytes < memory and seconds < MAX_SECONDS]
    for name, (nbytes, seconds) in needs.items():
        if name not in fitting:
            need = f"{nbytes / 2**30:.0f} GiB" if nbytes >= memory else f"{seconds:.0f} s"
            print(f"{case}: {name} form left out, for it would take {need}", flush=True)
    return fitting


def free_memory(device: torch.device) -> float:
    """Bytes that are available on the device."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def slope_rows(watch: Stopwatch, machine: Machine) -> list[Row]:
    """Seconds per added variable at 32×64: the slope between few variables and many, ours and the textbook's.

    The times between which the slopes lie are rows of their own: `front_end_32x64_v5` and so on.
    """
    benches = {V: FrontEnd(slope_size(V), watch, torch.float32) for V in (SLOPE_FEW, SLOPE_TEXTBOOK, SLOPE_OURS)}
    few = benches[SLOPE_FEW]
    ours, theirs = (few.inspect(form) for form in (few.ours, few.textbook))
    check_same("variable_slope", ours.results, theirs.results, TOLERANCE[torch.float32])
    runs = {f"ours {V}": bench.step(bench.ours) for V, bench in benches.items()}
    runs |= {f"textbook {V}": benches[V].step(benches[V].textbook) for V in (SLOPE_FEW, SLOPE_TEXTBOOK)}
    times = watch.times(runs)
    slopes = {
        name: (times[f"{name} {last}"].median - times[f"{name} {SLOPE_FEW}"].median) / (last - SLOPE_FEW)
        for name, last in (("ours", SLOPE_OURS), ("textbook", SLOPE_TEXTBOOK))
    }
    slope = Row(
        case="variable_slope", metric="time", against="textbook", ours=slopes["ours"], baseline=slopes["textbook"],
        unit="s/variable", device=machine.name,
    )  # fmt: skip
    rows = [slope]
    for V in benches:
        size = slope_size(V)
        baseline = {"textbook": times[f"textbook {V}"].median} if f"textbook {V}" in times else {}
        case = f"front_end_{size.H}x{size.W}_v{V}"
        rows += machine.time_rows(case, times[f"ours {V}"], baseline, flop=size.flop(), nbytes=size.nbytes())
    return rows


def slope_size(V: int) -> Size:
    """The front end of which the slope is taken, with this many variables."""
    return Size(V=V, H=32, W=64, p=2)
