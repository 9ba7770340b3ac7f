"""Front end (pixels -> z, map rebuild and output projection included): op against textbook and unfused form.

Dimensions as in `op.py`. Run by `climax-hpc bench kernels`; float32, forward and backward.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from climax_hpc.kernels.benchmarking import (
    Inspection,
    Machine,
    Row,
    check_same,
    inspect,
    memory_rows,
    seconds_of,
    step,
    time_rows,
)
from climax_hpc.kernels.variable_aggregation.op import aggregate_variables, build_maps
from climax_hpc.kernels.variable_aggregation.reference import tokenise_and_aggregate
from climax_hpc.kernels.variable_aggregation.unfused import aggregate_variables_unfused

# Two float32 forms, each within 1e-5 of the float64 truth (tests/kernels), over sums of up to 3e4 patches.
TOLERANCE = 2e-5
SLOPE_FEW, SLOPE_TEXTBOOK, SLOPE_OURS = 5, 24, 160  # number of variables between which the slope is taken


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

    def flop(self) -> float:
        """Forward and backward (three products each) of scores, values, output projection and map rebuild."""
        columns = self.V * (self.p**2 + 1)
        R = self.B * self.H * self.W / self.p**2
        return 3 * (2 * R * columns * (self.N + self.D) + 2 * R * self.D**2 + 2 * columns * self.D * (self.D + self.N))

    def nbytes(self) -> float:
        """Image read twice; o, z and their gradients written and read."""
        return 4 * self.B * self.H * self.W * (2 * self.V + 8 * self.D / self.p**2)


SIZES = {
    "front_end_32x64": Size(H=32, W=64, p=2),
    "front_end_128x256": Size(H=128, W=256, p=4),
    "front_end_720x1440": Size(V=100, H=720, W=1440, p=8),
}


def front_end(aggregate: Callable[..., Tensor], x_BVHW: Tensor, parameters: list[Tensor], heads: int) -> Tensor:
    """z_BLD without tokens."""
    weight_VDpp, bias, embed, query, in_weight, in_bias, out_weight, out_bias = parameters
    maps = build_maps(weight_VDpp, bias, embed, query, in_weight, in_bias, heads)
    return F.linear(aggregate(x_BVHW, *maps, weight_VDpp.shape[-1]), out_weight, out_bias)


class FrontEnd:
    """One size with its image, parameters and the three forms."""

    def __init__(self, size: Size) -> None:
        draw = torch.Generator().manual_seed(0)
        V, D, p = size.V, size.D, size.p
        shapes = [(V, D, p, p), (V, D), (V, D), (D,), (3 * D, D), (3 * D,), (D, D), (D,)]
        self.parameters = [(torch.randn(s, generator=draw) * s[-1] ** -0.5).requires_grad_() for s in shapes]
        self.x_BVHW = torch.randn(size.B, V, size.H, size.W, generator=draw)
        self.probe = torch.randn(size.B, size.H * size.W // p**2, D, generator=draw)
        self.heads = size.N

    def ours(self) -> Tensor:
        """The product's form."""
        return front_end(aggregate_variables, self.x_BVHW, self.parameters, self.heads)

    def unfused(self) -> Tensor:
        """The absorbed form with its operand in memory."""
        return front_end(aggregate_variables_unfused, self.x_BVHW, self.parameters, self.heads)

    def textbook(self) -> Tensor:
        """Every token in memory, as in the released ClimaX."""
        weight_VDpp, bias, embed, query, in_weight, in_bias, out_weight, out_bias = self.parameters
        return tokenise_and_aggregate(
            self.x_BVHW, weight_VDpp, bias, embed, query, in_weight, in_bias, out_weight, out_bias, self.heads
        )

    def seconds(self, form: Callable[[], Tensor], repeats: int, first: Inspection | None = None) -> list[float]:
        """Times of forward and backward."""
        return seconds_of(step(form, self.parameters, self.probe), repeats, first)


def rows_of(case: str, repeats: int, machine: Machine) -> list[Row]:
    """All rows of one size: time and memory against the textbook, the unfused form, the input and the roofline."""
    size, bench = SIZES[case], FrontEnd(SIZES[case])
    ours = inspect(bench.ours, bench.parameters, bench.probe)
    others = {} if case == "front_end_720x1440" else {"textbook": bench.textbook, "unfused": bench.unfused}
    inspected = {}
    for name, form in others.items():
        inspected[name] = inspect(form, bench.parameters, bench.probe)
        check_same(f"{case} against {name}", ours.results, inspected[name].results, TOLERANCE)
        inspected[name].results.clear()
    if not others:
        check_part_of_large_image(bench)
    seconds = bench.seconds(bench.ours, repeats)
    baselines = {
        name: statistics.median(bench.seconds(form, repeats, inspected[name])) for name, form in others.items()
    }
    baselines["roofline"] = machine.floor(size.flop(), size.nbytes())
    return [*time_rows(case, seconds, baselines), *memory_rows(case, ours, inspected, bench.x_BVHW.nbytes)]


def check_part_of_large_image(bench: FrontEnd) -> None:
    """Hold 0.25° against the textbook on a corner of the image, of which the textbook's tokens fit in memory."""
    whole_BVHW = bench.x_BVHW
    edge = bench.parameters[0].shape[-1]
    bench.x_BVHW = whole_BVHW[:1, :, : 2 * edge, : 4 * edge].contiguous()
    try:
        probe = bench.probe[:1, :8].contiguous()
        ours, theirs = (inspect(form, bench.parameters, probe).results for form in (bench.ours, bench.textbook))
        check_same("front_end_720x1440, a corner against textbook", ours, theirs, TOLERANCE)
    finally:
        bench.x_BVHW = whole_BVHW


def slope_rows(repeats: int) -> list[Row]:
    """Seconds per added variable at 32×64: the slope between few variables and many, ours and the textbook's."""
    slopes = {}
    for name, many in (("ours", SLOPE_OURS), ("textbook", SLOPE_TEXTBOOK)):
        medians = []
        for V in (SLOPE_FEW, many):
            bench = FrontEnd(Size(V=V, H=32, W=64, p=2))
            form = bench.ours if name == "ours" else bench.textbook
            if V == SLOPE_FEW:
                results = [inspect(f, bench.parameters, bench.probe).results for f in (bench.ours, bench.textbook)]
                check_same("variable_slope", results[0], results[1], TOLERANCE)
            medians.append(statistics.median(bench.seconds(form, repeats)))
        slopes[name] = (medians[1] - medians[0]) / (many - SLOPE_FEW)
    return [
        Row(
            case="variable_slope", metric="time", against="textbook", ours=slopes["ours"], baseline=slopes["textbook"],
            unit="s/variable",
        )
    ]  # fmt: skip
