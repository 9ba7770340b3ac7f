"""Stages `correct_…`: every kernel against float64 at odd sizes, in all types, on data never seen before.

Unwritten memory holds NaN, and every result is computed twice. Each row says from which seed its data came.
Dimensions as in the kernels' `op.py`.
"""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu_day.front_end import GRADIENTS
from benchmarks.gpu_day.record import Record
from benchmarks.gpu_day.schedule import AGGREGATION, LOSS, SUMS
from benchmarks.gpu_day.timing import device, poison
from climax_hpc.kernels.benchmarking import Stopwatch
from climax_hpc.kernels.lat_weighted_loss.op import lat_weighted_loss
from climax_hpc.kernels.lat_weighted_loss.reference import lat_weighted_loss_reference
from climax_hpc.kernels.testing import poisoned_memory, relative_error, scatter_missing
from climax_hpc.kernels.variable_aggregation.bench import FrontEnd, Size
from climax_hpc.kernels.variable_aggregation.op import aggregate_variables
from climax_hpc.kernels.variable_aggregation.unfused import aggregate_variables_unfused
from climax_hpc.kernels.verification_sums.op import verification_sums
from climax_hpc.kernels.verification_sums.reference import verification_sums_reference

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# As in tests/kernels: one rounding each of weights, products and output; float32 is TF32 in three products.
AGGREGATION_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}
# The whole front end adds the output projection, whose sums over D the textbook form rounds as often.
FRONT_END_TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 1.5e-2}
# Sums in float32; the loss's gradient is rounded to its type, in float16 to subnormal numbers of 2^-24.
SUM_TOLERANCE, GRADIENT_TOLERANCE = 1e-6, {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-8}

# B, V, p, N, K, patch rows, patch columns: rows that fill no tile, widths that are no power of two, one variable.
AGGREGATION_SIZES = [
    (5, 48, 2, 16, 64, 16, 32), (2, 48, 4, 16, 64, 31, 63), (1, 33, 8, 4, 128, 9, 7), (3, 17, 2, 2, 24, 7, 11),
    (2, 20, 16, 2, 24, 3, 5), (1, 301, 1, 2, 96, 13, 11), (2, 1, 1, 1, 24, 3, 5),
]  # fmt: skip
FRONT_END_SIZE = Size(B=3, H=22, W=26, p=2, D=768, N=12)
LOSS_SIZES = [(48, 4, 5, 7), (17, 16, 2, 3), (1, 1, 13, 11), (5, 2, 7, 10), (3, 8, 1, 2)]  # O, p, patch rows, columns
SUM_SIZES = [(5, 3, 1, 1), (3, 5, 7, 9), (2, 2, 90, 71)]  # B, O, H, W


def aggregation(record: Record, dtype: torch.dtype, part: int) -> None:
    """The operator with every gradient, and the whole front end with those of its parameters.

    Args:
        part: 0 or 1, which half of the sizes; they are compiled beside each other.
    """
    sizes = [(2, 17, 2, 2, 24, 3, 5), (2, 1, 1, 1, 24, 3, 5)] if record.rehearsal else AGGREGATION_SIZES
    for size in sizes[part::2]:
        seed = fresh()
        inputs, do_BLD = aggregation_problem(size, dtype, seed)
        truth = aggregated(aggregate_variables_unfused, inputs, do_BLD, size[2])
        narrow = [inputs[0].to(dtype), *(t.float() for t in inputs[1:])]
        ours, again = twice(aggregated, aggregate_variables, narrow, do_BLD, size[2])
        errors = dict(zip(("o", "dx", "dS", "dS0", "dM", "dM0", "dbias"), differences(ours, truth), strict=True))
        if size[1] == 1:  # one variable has weight 1 whatever its score: the truth is 0 but for rounding
            scale = truth[0].norm() * do_BLD.norm()
            errors |= {name: float(ours[2 + i].norm() / scale) for i, name in enumerate(("dS", "dS0"))}
        no_gradient_of_gaps = bool((ours[1][inputs[0].isnan()] == 0).all())
        name = f"{AGGREGATION}/{short(dtype)}/{'_'.join(map(str, size))}"
        keep(record, AGGREGATION, name, errors, AGGREGATION_TOLERANCE[dtype], (ours, again), seed,
             passed=no_gradient_of_gaps)  # fmt: skip
    if part and dtype in FRONT_END_TOLERANCE:
        tolerance = FRONT_END_TOLERANCE[dtype]
        whole = Size(B=1, V=5, H=6, W=10, p=2, D=48, N=2) if record.rehearsal else FRONT_END_SIZE
        seed = fresh()
        truth = front_end(whole, torch.float64, dtype, seed).of("textbook")
        ours, again = twice(front_end(whole, dtype, dtype, seed).of, "ours")
        errors = dict(zip(("z", *GRADIENTS), differences(ours, truth), strict=True))
        keep(record, AGGREGATION, f"front_end/{short(dtype)}", errors, tolerance, (ours, again), seed)


def loss(record: Record) -> None:
    """Loss, loss of each field and gradient, of every kind of error."""
    kinds = ("mse",) if record.rehearsal else ("mse", "mae", "huber")
    for O, p, rows, columns in LOSS_SIZES[3:] if record.rehearsal else LOSS_SIZES:  # noqa: E741 - the dimension's name
        for dtype in DTYPES:
            for kind in kinds:
                seed = fresh()
                draw = torch.Generator().manual_seed(seed)
                h_BLPO = torch.randn(3, rows * columns, p * p * O, generator=draw).to(dtype)
                y_BOHW = scatter_missing(torch.randn(3, O, rows * p, columns * p, generator=draw), p)
                weight_H = torch.rand(rows * p, generator=draw) + 0.1
                h_BLPO, y_BOHW, weight_H = (t.to(device()) for t in (h_BLPO, y_BOHW, weight_H))
                wide = [t.double() for t in (h_BLPO, y_BOHW, weight_H)]
                truth = losses(lat_weighted_loss_reference, *wide, p, kind)
                ours, again = twice(losses, lat_weighted_loss, h_BLPO, y_BOHW, weight_H, p, kind)
                same_gaps = torch.equal(ours[1].isnan(), truth[1].isnan())
                numbers = ([t.nan_to_num() for t in results] for results in (ours, truth))
                errors = dict(zip(("loss", "loss_BO", "gradient"), differences(*numbers), strict=True))
                errors["gradient"] *= SUM_TOLERANCE / GRADIENT_TOLERANCE[dtype]
                name = f"{LOSS}/{short(dtype)}/{kind}/{O}_{p}_{rows}_{columns}"
                keep(record, LOSS, name, errors, SUM_TOLERANCE, (ours, again), seed, passed=same_gaps)


def sums(record: Record) -> None:
    """All sums of an evaluation, with and without a climatology."""
    for size in SUM_SIZES[1:2] if record.rehearsal else SUM_SIZES:
        for dtype in DTYPES:
            seed = fresh()
            draw = torch.Generator().manual_seed(seed)
            forecast, truth, climatology = torch.randn(3, *size, generator=draw).to(dtype)
            truth, climatology = scatter_missing(truth, 1), scatter_missing(climatology.flip(0), 1).flip(0)
            weight_H = torch.rand(size[2], generator=draw) + 0.1
            fields = [t.to(device()) for t in (forecast, truth, climatology, weight_H)]
            for part, climatology in (("with", fields[2]), ("without", None)):
                wide = [t.double() for t in fields]
                known = wide[2] if climatology is not None else torch.zeros_like(wide[2])
                expected = verification_sums_reference(*wide[:2], known, wide[3])[: 7 if part == "with" else 4]
                ours, again = twice(summed, *fields[:2], climatology, fields[3])
                errors = {str(i): error for i, error in enumerate(differences(ours, list(expected)))}
                name = f"{SUMS}/{short(dtype)}/{part}_climatology/{'_'.join(map(str, size))}"
                keep(record, SUMS, name, errors, SUM_TOLERANCE, (ours, again), seed)


def keep(
    record: Record, kernel: str, name: str, errors: dict[str, float], tolerance: float,
    both: Sequence[list[Tensor]], seed: int, passed: bool = True,
) -> None:  # fmt: skip
    """Rows of one case: the largest error, whether both runs have the same bits, and whether all is right."""
    worst = max(errors, key=lambda key: errors[key])
    same = all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(*both, strict=True))
    record.add(f"error/{name}", errors[worst], "1", of=[kernel], worst=worst)
    record.add(f"same_bits/{name}", float(same), "1", of=[kernel], seed=seed)
    record.check(name, passed and same and errors[worst] < tolerance, of=[kernel], tolerance=tolerance, seed=seed)


def twice(run: Callable[..., list[Tensor]], *arguments: object) -> Iterator[list[Tensor]]:
    """The results of two runs, each in memory full of NaN."""
    for _ in range(2):
        poison(device(), 1e9)
        with poisoned_memory():
            yield run(*arguments)


def differences(ours: Sequence[Tensor], truth: Sequence[Tensor]) -> list[float]:
    """Relative error of each result."""
    return [relative_error(mine, theirs) for mine, theirs in zip(ours, truth, strict=True)]


def fresh() -> int:
    """A seed that no earlier run had; to see a failure again, the one in the variable GPU_DAY_SEED."""
    return int(os.environ.get("GPU_DAY_SEED", random.SystemRandom().randrange(2**31)))


def short(dtype: torch.dtype) -> str:
    """Name of a type without its package."""
    return str(dtype).removeprefix("torch.")


def aggregation_problem(size: tuple[int, ...], dtype: torch.dtype, seed: int) -> tuple[list[Tensor], Tensor]:
    """Image with gaps, maps and gradient of the output in float64, of values that `dtype` holds."""
    B, V, p, N, K, rows, columns = size
    draw = torch.Generator().manual_seed(seed)
    shapes = ((B, V, rows * p, columns * p), (N, V, p * p), (N, V), (N, V, K, p * p), (N, V, K), (N * K,))
    scales = (1, 1 / p, 1, 1 / p, 1, 1)
    x, *maps = (torch.randn(s, generator=draw).mul(c).to(dtype).double() for s, c in zip(shapes, scales, strict=True))
    x = scatter_missing(x, p) if V > 1 else x
    do_BLD = torch.randn(B, rows * columns, N * K, generator=draw).to(dtype).double()
    return [t.to(device()) for t in (x, *maps)], do_BLD.to(device())


def aggregated(form: Callable[..., Tensor], inputs: list[Tensor], do_BLD: Tensor, patch: int) -> list[Tensor]:
    """Output and every gradient."""
    leaves = [t.clone().requires_grad_() for t in inputs]
    o_BLD = form(*leaves, patch)
    return [o_BLD.detach(), *torch.autograd.grad(o_BLD, leaves, do_BLD.to(o_BLD.dtype))]


class SeededFrontEnd(FrontEnd):
    """The front end of a bench, with an image, parameters and an output's gradient of this seed."""

    def of(self, form: str) -> list[Tensor]:
        """Output and gradients of the parameters."""
        output = getattr(self, form)()
        return [output.detach(), *torch.autograd.grad(output, self.parameters, self.probe)]


def front_end(size: Size, dtype: torch.dtype, held: torch.dtype, seed: int) -> SeededFrontEnd:
    """In `dtype`, of values that `held` holds; the image has gaps."""
    bench = SeededFrontEnd(size, Stopwatch(device=str(device())), dtype)
    draw = torch.Generator().manual_seed(seed)
    x_BVHW = scatter_missing(torch.randn(bench.x_BVHW.shape, generator=draw), size.p)
    bench.x_BVHW = x_BVHW.to(held).to(device(), dtype)
    bench.probe = torch.randn(bench.probe.shape, generator=draw).to(held).to(device(), dtype)
    with torch.no_grad():
        for i, parameter in enumerate(bench.parameters):
            drawn = torch.randn(parameter.shape, generator=draw) * parameter.shape[-1] ** -0.5
            wide = drawn.to(held).to(device(), torch.promote_types(dtype, torch.float32))
            bench.parameters[i] = wide.requires_grad_()
    return bench


def losses(
    form: Callable[..., tuple[Tensor, Tensor]], h_BLPO: Tensor, y_BOHW: Tensor, weight_H: Tensor, p: int, kind: str
) -> list[Tensor]:
    """Loss, loss of each field, gradient."""
    leaf = h_BLPO.detach().clone().requires_grad_()
    value, value_BO = form(leaf, y_BOHW, weight_H, p, kind=kind, huber_delta=0.7)
    return [value.detach(), value_BO, torch.autograd.grad(value, leaf)[0]]


def summed(forecast: Tensor, truth: Tensor, climatology: Tensor | None, weight_H: Tensor) -> list[Tensor]:
    """The sums that there are."""
    return [total for total in verification_sums(forecast, truth, climatology, weight_H) if total is not None]


STAGES = {
    f"correct_aggregation_{short(dtype)}_{part}": partial(aggregation, dtype=dtype, part=part)
    for dtype in DTYPES
    for part in (0, 1)
} | {"correct_loss": loss, "correct_sums": sums}
