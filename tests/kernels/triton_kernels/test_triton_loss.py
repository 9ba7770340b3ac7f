"""The Triton loss sums and gradient against the textbook form in float64."""

from itertools import product

import pytest
import torch
from torch import Tensor

from climax_hpc.kernels.lat_weighted_loss.launch_triton import (
    lat_weighted_loss_triton_backward,
    lat_weighted_loss_triton_forward,
)
from climax_hpc.kernels.lat_weighted_loss.reference import lat_weighted_loss_reference
from climax_hpc.kernels.testing import relative_error, scatter_missing, triton_device

KINDS = ["mse", "mae", "huber"]
# O, p, patch rows, patch columns: one variable; the block of patches not full; all 48; every patch edge.
SIZES = [(1, 1, 13, 11), (5, 2, 7, 10), (48, 4, 3, 1), (3, 8, 1, 2), (17, 16, 1, 2)]
DELTA = 0.7
TOLERANCE = 1e-6  # float32 sums of at most 1e4 terms of one sign, added in blocks


def problem(size, missing: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    num_out, p, rows, columns = size
    draw = torch.Generator().manual_seed(0)
    h_BLPO = torch.randn(3, rows * columns, p * p * num_out, generator=draw)
    y_BOHW = torch.randn(3, num_out, rows * p, columns * p, generator=draw)
    return h_BLPO, scatter_missing(y_BOHW, p) if missing else y_BOHW, torch.rand(rows * p, generator=draw) + 0.1


def derivative(denominator_BO: Tensor) -> Tensor:
    """d loss / d numerator for equal variable weights: mean over variables with a valid pixel, then samples."""
    present_BO = denominator_BO > 0
    share_BO = present_BO / present_BO.sum(dim=1, keepdim=True).clamp(min=1) / len(present_BO)
    return share_BO / torch.where(present_BO, denominator_BO, 1)


def ours(h_BLPO, y_BOHW, weight_H, patch: int, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    h_BLPO, y_BOHW, weight_H = (t.to(triton_device()) for t in (h_BLPO, y_BOHW, weight_H))
    numerator_BO, denominator_BO, dh = lat_weighted_loss_triton_forward(h_BLPO, y_BOHW, weight_H, patch, kind, DELTA)
    assert dh is None
    coefficient_BO = derivative(denominator_BO)
    dh_BLPO = lat_weighted_loss_triton_backward(coefficient_BO, h_BLPO, y_BOHW, weight_H, patch, kind, DELTA)
    assert dh_BLPO.dtype == h_BLPO.dtype
    return (coefficient_BO * numerator_BO).sum().cpu(), (numerator_BO / denominator_BO).cpu(), dh_BLPO.cpu()


def expected(h_BLPO, y_BOHW, weight_H, patch: int, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    h_BLPO = h_BLPO.double().requires_grad_()
    loss, loss_BO = lat_weighted_loss_reference(
        h_BLPO, y_BOHW.double(), weight_H.double(), patch, kind=kind, huber_delta=DELTA
    )
    loss.backward()
    assert h_BLPO.grad is not None
    return loss, loss_BO, h_BLPO.grad


def assert_same(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...], gradient_tolerance: float = TOLERANCE) -> None:
    assert relative_error(mine[0], theirs[0]) < TOLERANCE
    assert torch.equal(mine[1].isnan(), theirs[1].isnan())
    assert relative_error(mine[1].nan_to_num(), theirs[1].nan_to_num()) < TOLERANCE
    assert relative_error(mine[2], theirs[2]) < gradient_tolerance


# Every size with one kind and every kind with one size; all pairs in `make exhaustive`.
DEFAULT = [(SIZES[0], "mse"), *((SIZES[1], kind) for kind in KINDS), *((size, "huber") for size in SIZES[2:])]
PAIRS = [pytest.param(*pair, marks=() if pair in DEFAULT else pytest.mark.exhaustive) for pair in product(SIZES, KINDS)]


@pytest.mark.parametrize(("size", "kind"), PAIRS, ids=str)
def test_matches_textbook(size, kind):
    inputs = problem(size)
    assert_same(ours(*inputs, size[1], kind), expected(*inputs, size[1], kind))


def test_matches_textbook_where_nothing_is_missing():
    inputs = problem((5, 2, 7, 10), missing=False)
    assert_same(ours(*inputs, 2, "mse"), expected(*inputs, 2, "mse"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype):
    h_BLPO, y_BOHW, weight_H = problem((5, 2, 7, 10))
    inputs = h_BLPO.to(dtype), y_BOHW.to(dtype), weight_H
    # The gradient alone is narrowed, by the interpreter by cutting: 8 bits of bfloat16. float16: subnormal, 2^-24/1e-4.
    assert_same(ours(*inputs, 2, "mse"), expected(*inputs, 2, "mse"), 2**-8)


@pytest.mark.parametrize("kind", KINDS)
def test_one_pass_gives_the_bits_of_two(kind):
    inputs = [t.to(triton_device()) for t in problem((5, 2, 7, 10))]
    numerator_BO, denominator_BO, _ = lat_weighted_loss_triton_forward(*inputs, 2, kind, DELTA)
    coefficient_BO = derivative(denominator_BO)
    one_pass = lat_weighted_loss_triton_forward(*inputs, 2, kind, DELTA, coefficient_BO)
    dh_BLPO = lat_weighted_loss_triton_backward(coefficient_BO, *inputs, 2, kind, DELTA)
    pairs = zip(one_pass, (numerator_BO, denominator_BO, dh_BLPO), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_sample_with_nothing_gives_no_loss_and_no_gradient(kind):
    h_BLPO, y_BOHW, weight_H = problem((5, 2, 3, 5))
    y_BOHW[1] = torch.nan
    loss, loss_BO, dh_BLPO = ours(h_BLPO, y_BOHW, weight_H, 2, kind)
    assert loss.isfinite()
    assert loss_BO[1].isnan().all()
    assert (dh_BLPO[1] == 0).all()
    assert dh_BLPO.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_broken_prediction_is_not_hidden(kind):
    h_BLPO, y_BOHW, weight_H = problem((2, 2, 1, 2), missing=False)
    h_BLPO[0, 0, 0] = torch.nan
    _, loss_BO, dh_BLPO = ours(h_BLPO, y_BOHW, weight_H, 2, kind)
    assert loss_BO.isnan().nonzero().tolist() == [[0, 0]]
    assert dh_BLPO.isnan().nonzero().tolist() == [[0, 0, 0]]


def test_strided_inputs():
    h_BLPO, y_BOHW, weight_H = problem((5, 2, 3, 5))
    strided = (
        h_BLPO.transpose(1, 2).contiguous().transpose(1, 2),
        y_BOHW.transpose(2, 3).contiguous().transpose(2, 3),
        torch.stack([weight_H, weight_H], dim=1)[:, 0],
    )
    pairs = zip(ours(*strided, 2, "mse"), ours(h_BLPO, y_BOHW, weight_H, 2, "mse"), strict=True)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


@pytest.mark.parametrize("kind", ["mse", *(pytest.param(k, marks=pytest.mark.exhaustive) for k in KINDS[1:])])
def test_fields_in_place_of_the_head_output(kind):
    """Read as they lie: the sums of a copy with the variable fastest, and a gradient laid out as the fields."""
    h_BLO, y_BOHW, weight_H = problem((5, 1, 13, 11))
    of_fields = h_BLO.transpose(1, 2).contiguous().transpose(1, 2)
    mine, theirs = (ours(h, y_BOHW, weight_H, 1, kind) for h in (of_fields, h_BLO))
    # The same bits in the interpreter; a compiler may contract multiplications and additions in one layout only.
    assert all(relative_error(a.nan_to_num(), b.nan_to_num()) < 2**-22 for a, b in zip(mine, theirs, strict=True))
    assert mine[2].stride() == of_fields.stride()
    assert_same(mine, expected(h_BLO, y_BOHW, weight_H, 1, kind))


def test_refusals():
    h_BLPO, y_BOHW, weight_H = problem((1, 1, 2, 2))
    with pytest.raises(ValueError, match="patch edge 3: the Triton kernel takes 1, 2, 4, 8 or 16"):
        lat_weighted_loss_triton_forward(h_BLPO, y_BOHW, weight_H, 3, "mse", DELTA)
    with pytest.raises(ValueError, match=r"target in torch\.float64"):
        lat_weighted_loss_triton_forward(h_BLPO, y_BOHW.double(), weight_H, 1, "mse", DELTA)
