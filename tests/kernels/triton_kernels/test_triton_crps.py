"""The Triton sums, codes and gradient of the ensemble CRPS against the textbook form in float64."""

import pytest
import torch
from torch import Tensor

from climax_hpc.kernels.ensemble_crps import cpu
from climax_hpc.kernels.ensemble_crps.launch_triton import ensemble_crps_triton_backward, ensemble_crps_triton_forward
from climax_hpc.kernels.ensemble_crps.reference import ensemble_crps_reference
from climax_hpc.kernels.testing import relative_error, scatter_missing, triton_device

EXHAUSTIVE = pytest.mark.exhaustive
# M, O, p, patch rows, patch columns: one member; blocks of patches not full; members in one group, in two, in four;
# more variables than a tile holds; every patch edge. MORE is of `make exhaustive`.
MORE = [(11, 17, 2, 2, 5), (32, 2, 1, 3, 5), (8, 2, 16, 1, 2), (9, 3, 8, 1, 2)]
SIZES = [(1, 1, 1, 13, 3), (2, 5, 2, 7, 3), (3, 48, 4, 3, 1), (2, 3, 8, 1, 2), (9, 3, 1, 2, 5)]
SIZES += [pytest.param(size, marks=EXHAUSTIVE) for size in MORE]
ALPHA = 0.95
TOLERANCE = 1e-6  # float32 sums of at most 1e3 cells, added in blocks, in each cell of terms of both signs


def problem(size, missing: bool = True, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Head outputs of two samples with equal members and members equal to the target, targets with gaps, weights."""
    M, num_out, p, rows, columns = size
    draw = torch.Generator().manual_seed(sum(size))
    h_BMLPO = (4 * torch.randn(2, M, rows * columns, p * p * num_out, generator=draw)).round().to(dtype) / 4
    y_BOHW = (4 * torch.randn(2, num_out, rows * p, columns * p, generator=draw)).round() / 4
    return h_BMLPO, scatter_missing(y_BOHW, p) if missing else y_BOHW, torch.rand(rows * p, generator=draw) + 0.1


def derivative(denominator_BO: Tensor) -> Tensor:
    """d loss / d numerator for equal variable weights: mean over variables with a valid pixel, then samples."""
    present_BO = denominator_BO > 0
    share_BO = present_BO / present_BO.sum(dim=1, keepdim=True).clamp(min=1) / len(present_BO)
    return share_BO / torch.where(present_BO, denominator_BO, 1)


def ours(h_BMLPO, y_BOHW, weight_H, patch: int, alpha: float = ALPHA) -> tuple[Tensor, Tensor, Tensor]:
    h_BMLPO, y_BOHW, weight_H = (t.to(triton_device()) for t in (h_BMLPO, y_BOHW, weight_H))
    sums = ensemble_crps_triton_forward(h_BMLPO, y_BOHW, weight_H, patch, alpha, True)
    numerator_BO, denominator_BO, code_BMLPO = sums
    coefficient_BO = derivative(denominator_BO)
    dh_BMLPO = ensemble_crps_triton_backward(coefficient_BO, code_BMLPO, weight_H, patch, alpha, h_BMLPO.dtype)
    assert dh_BMLPO.dtype == h_BMLPO.dtype
    return (coefficient_BO * numerator_BO).sum().cpu(), (numerator_BO / denominator_BO).cpu(), dh_BMLPO.cpu()


def expected(h_BMLPO, y_BOHW, weight_H, patch: int, alpha: float = ALPHA) -> tuple[Tensor, Tensor, Tensor]:
    h_BMLPO = h_BMLPO.double().requires_grad_()
    loss, loss_BO = ensemble_crps_reference(h_BMLPO, y_BOHW.double(), weight_H.double(), patch, alpha=alpha)
    return loss.detach(), loss_BO, torch.autograd.grad(loss, h_BMLPO)[0]


def assert_same(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...], gradient_tolerance: float = TOLERANCE) -> None:
    assert torch.equal(mine[1].isnan(), theirs[1].isnan())
    for found, truth, tolerance in zip(mine, theirs, (TOLERANCE, TOLERANCE, gradient_tolerance), strict=True):
        assert relative_error(found.nan_to_num(), truth.nan_to_num()) < tolerance


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_matches_textbook(size):
    inputs = problem(size)
    assert_same(ours(*inputs, size[2]), expected(*inputs, size[2]))


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_plain_and_fair_where_nothing_is_missing(alpha):
    inputs = problem((5, 3, 2, 2, 3), missing=False)
    assert_same(ours(*inputs, 2, alpha), expected(*inputs, 2, alpha))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype):
    inputs = problem((4, 5, 2, 3, 3), dtype=dtype)
    assert_same(ours(*inputs, 2), expected(*inputs, 2), torch.finfo(dtype).eps)  # one rounding of the gradient


@pytest.mark.parametrize("members", [3, pytest.param(43, marks=EXHAUSTIVE), 44])
def test_codes_are_those_of_the_other_form(members):
    """Of one byte up to 43 members, of two above; either form takes the codes of the other."""
    inputs = [t.to(triton_device()) for t in problem((members, 2, 1, 2, 3))]
    triton_code, code = (form(*inputs, 1, ALPHA, True)[2] for form in (ensemble_crps_triton_forward, cpu.forward))
    assert triton_code.dtype == code.dtype == (torch.int16 if members == 44 else torch.int8)
    assert torch.equal(triton_code, code)
    assert code.any()


def test_no_codes_without_a_gradient():
    inputs = [t.to(triton_device()) for t in problem((4, 5, 2, 3, 3))]
    with_codes, without = (ensemble_crps_triton_forward(*inputs, 2, ALPHA, gradient) for gradient in (True, False))
    assert without[2].numel() == 0
    assert all(torch.equal(a, b) for a, b in zip(with_codes[:2], without[:2], strict=True))


def test_sample_with_nothing_gives_no_loss_and_no_gradient():
    h_BMLPO, y_BOHW, weight_H = problem((4, 5, 2, 3, 3))
    y_BOHW[1] = torch.nan
    loss, loss_BO, dh_BMLPO = ours(h_BMLPO, y_BOHW, weight_H, 2)
    assert loss.isfinite()
    assert loss_BO[1].isnan().all()
    assert (dh_BMLPO[1] == 0).all()
    assert dh_BMLPO.isfinite().all()


@pytest.mark.parametrize("members", [3, 11])
def test_broken_member_is_not_hidden(members):
    h_BMLPO, y_BOHW, weight_H = problem((members, 2, 2, 1, 2), missing=False)
    h_BMLPO[0, 1, 0, 0] = torch.nan
    _, loss_BO, dh_BMLPO = ours(h_BMLPO, y_BOHW, weight_H, 2)
    assert loss_BO.isnan().nonzero().tolist() == [[0, 0]]
    assert dh_BMLPO.isnan().nonzero().tolist() == [[0, 1, 0, 0]]


def test_fields_in_place_of_the_head_output():
    """Read as they lie: the sums of a copy with the variable fastest, and a gradient laid out as the fields."""
    h_BMLO, y_BOHW, weight_H = problem((4, 5, 1, 7, 5))
    of_fields = h_BMLO.transpose(2, 3).contiguous().transpose(2, 3)
    mine, theirs = (ours(h, y_BOHW, weight_H, 1) for h in (of_fields, h_BMLO))
    # The same bits in the interpreter; a compiler may contract multiplications and additions in one layout only.
    assert all(relative_error(a.nan_to_num(), b.nan_to_num()) < 2**-22 for a, b in zip(mine, theirs, strict=True))
    assert mine[2].stride() == of_fields.stride()
    assert_same(mine, expected(h_BMLO, y_BOHW, weight_H, 1))


def test_strided_inputs_and_the_same_bits_twice():
    h_BMLPO, y_BOHW, weight_H = problem((4, 5, 2, 3, 3))
    strided = (
        h_BMLPO.transpose(0, 1).contiguous().transpose(0, 1),
        y_BOHW.transpose(2, 3).contiguous().transpose(2, 3),
        torch.stack([weight_H, weight_H], dim=1)[:, 0],
    )
    pairs = zip(ours(*strided, 2), ours(h_BMLPO, y_BOHW, weight_H, 2), strict=True)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


def test_refusals():
    h_BMLPO, y_BOHW, weight_H = problem((2, 1, 1, 2, 2))
    with pytest.raises(ValueError, match="patch edge 3: the Triton kernel takes 1, 2, 4, 8 or 16"):
        ensemble_crps_triton_forward(h_BMLPO, y_BOHW, weight_H, 3, ALPHA, True)
    with pytest.raises(ValueError, match=r"target in torch\.float64"):
        ensemble_crps_triton_forward(h_BMLPO, y_BOHW.double(), weight_H, 1, ALPHA, True)
