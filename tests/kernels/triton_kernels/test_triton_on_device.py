"""What only a GPU can show of the Triton kernels: real tiles, several chunks, every patch edge, other streams."""

import pytest
import torch
from torch import Tensor

from climax_hpc.kernels.dispatch import interpreting
from climax_hpc.kernels.testing import relative_error, scatter_missing
from climax_hpc.kernels.variable_aggregation.op import aggregate_variables
from climax_hpc.kernels.variable_aggregation.unfused import aggregate_variables_unfused

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(interpreting(), reason="needs a CUDA or ROCm device")]

# B, V, p, N, K, patch rows, patch columns: the 108 M model's front end in several chunks; the 1.40625° one; widest
# heads; widest patches at their own tiles; hundreds of variables; rows that fill no tile.
SIZES = [
    (5, 48, 2, 16, 64, 16, 32),
    (2, 48, 4, 16, 64, 32, 64),
    (1, 33, 8, 4, 128, 9, 7),
    (2, 20, 16, 2, 24, 3, 5),
    (1, 301, 1, 2, 96, 13, 11),
    (1, 1, 1, 1, 1, 1, 1),
]
# As in test_triton_aggregation.py: one rounding each of weights, products and o; float32 is TF32 in three products.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def problem(size: tuple[int, ...], dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """Image, maps and gradient of the output in float64, of values that `dtype` holds; the image has gaps."""
    B, V, p, N, K, rows, columns = size
    draw = torch.Generator().manual_seed(sum(size))
    shapes = ((B, V, rows * p, columns * p), (N, V, p * p), (N, V), (N, V, K, p * p), (N, V, K), (N * K,))
    scales = (1, 1 / p, 1, 1 / p, 1, 1)
    x, *maps = (torch.randn(s, generator=draw).mul(c).to(dtype).double() for s, c in zip(shapes, scales, strict=True))
    do_BLD = torch.randn(B, rows * columns, N * K, generator=draw).to(dtype).double()
    return [t.cuda() for t in (scatter_missing(x, p), *maps)], do_BLD.cuda()


def gradients(form, inputs: list[Tensor], do_BLD: Tensor, patch: int) -> list[Tensor]:
    leaves = [t.clone().requires_grad_() for t in inputs]
    o_BLD = form(*leaves, patch)
    return [o_BLD.detach(), *torch.autograd.grad(o_BLD, leaves, do_BLD.to(o_BLD.dtype))]


def narrow(inputs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [inputs[0].to(dtype), *(t.float() for t in inputs[1:])]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_matches_float64(size, dtype):
    inputs, do_BLD = problem(size, dtype)
    truth = gradients(aggregate_variables_unfused, inputs, do_BLD, size[2])
    ours, again = (gradients(aggregate_variables, narrow(inputs, dtype), do_BLD, size[2]) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))
    assert (ours[1][inputs[0].isnan()] == 0).all()
    for name, mine, theirs in zip(("o", "dx", "dS", "dS0", "dM", "dM0", "dbias"), ours, truth, strict=True):
        if name.startswith("dS") and size[1] == 1:  # one variable has weight 1 whatever its score
            assert mine.abs().max() < 1e-3, name
        else:
            assert relative_error(mine, theirs) < TOLERANCE[dtype], (name, relative_error(mine, theirs))


def test_runs_on_the_current_stream():
    """A copy that the side stream makes first is seen by kernels launched there."""
    inputs, do_BLD = problem(SIZES[0], torch.bfloat16)
    leaves = narrow(inputs, torch.bfloat16)
    expected = gradients(aggregate_variables, leaves, do_BLD, 2)
    late = torch.zeros_like(leaves[0])
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(20_000_000)
        late.copy_(leaves[0])
        found = gradients(aggregate_variables, [late, *leaves[1:]], do_BLD, 2)
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_float64_takes_the_pytorch_form():
    inputs, do_BLD = problem((2, 5, 2, 3, 24, 5, 3), torch.float32)
    truth = gradients(aggregate_variables_unfused, inputs, do_BLD, 2)
    for ours, theirs in zip(gradients(aggregate_variables, inputs, do_BLD, 2), truth, strict=True):
        assert relative_error(ours, theirs) < 1e-10
