"""The Triton aggregation, forward and every gradient, against the textbook form in float64."""

import pytest
import torch
from torch import Tensor

from climax_hpc.kernels.testing import relative_error, scatter_missing, triton_device
from climax_hpc.kernels.variable_aggregation import launch_triton, tiles
from climax_hpc.kernels.variable_aggregation.launch_triton import (
    aggregate_variables_triton_backward,
    aggregate_variables_triton_forward,
)
from climax_hpc.kernels.variable_aggregation.op import build_maps
from climax_hpc.kernels.variable_aggregation.reference import cross_attend, tokenise

NAMES = ("dx", "dS_NVP", "dS0_NV", "dM_NVKP", "dM0_NVK", "dbias_D")
# B, V, p, N, K, patch rows, patch columns: one variable; K no power of two; all 48; every patch edge; two row blocks;
# hundreds of variables. The interpreter pays for every variable and plane (p * p), so many of both are exhaustive.
SIZES = [
    (2, 1, 1, 2, 24, 3, 5),
    (2, 5, 2, 3, 24, 5, 3),
    (1, 48, 1, 2, 64, 1, 3),
    (1, 3, 4, 2, 64, 1, 3),
    (3, 17, 2, 2, 16, 7, 11),
    (1, 2, 8, 1, 64, 2, 1),
    pytest.param((1, 48, 4, 2, 64, 1, 3), marks=pytest.mark.exhaustive),
    pytest.param((2, 5, 8, 1, 64, 2, 1), marks=pytest.mark.exhaustive),
    pytest.param((2, 7, 4, 1, 128, 1, 2), marks=pytest.mark.exhaustive),
    pytest.param((1, 161, 1, 1, 16, 1, 3), marks=pytest.mark.exhaustive),
]
FLOAT32_TOLERANCE = 1e-5  # KERNELS.md: the project's bound for float32 against the float64 reference
# Operands of products are rounded to 8 (11) bits: 2^-9 (2^-12) each, of which weights, products and o have one each.
TOLERANCE = {torch.float32: FLOAT32_TOLERANCE, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def aggregate_reference(x_BVHW, S_NVP, S0_NV, M_NVKP, M0_NVK, bias_D, patch: int) -> tuple[Tensor, Tensor]:
    """o_BLD and lse_BLN of given maps, as `reference.py` has them of given parameters; every intermediate stored."""
    N = S_NVP.shape[0]
    x_BVLP = x_BVHW.unfold(2, patch, patch).unfold(3, patch, patch).flatten(4).flatten(2, 3)
    valid_BVLP = ~x_BVLP.isnan()
    x_BVLP = torch.where(valid_BVLP, x_BVLP, 0)
    available_BLNV = valid_BVLP.any(-1).transpose(1, 2).unsqueeze(2).expand(-1, -1, N, -1)
    score_BLNV = torch.einsum("nvp,bvlp->blnv", S_NVP, x_BVLP) + S0_NV
    score_BLNV = score_BLNV.masked_fill(~available_BLNV, -1e300)
    attn_BLNV = score_BLNV.softmax(-1) * available_BLNV
    values_BLNK = torch.einsum("blnv,nvkp,bvlp->blnk", attn_BLNV, M_NVKP, x_BVLP)
    values_BLNK = values_BLNK + torch.einsum("blnv,nvk->blnk", attn_BLNV, M0_NVK)
    lse_BLN = torch.where(available_BLNV.any(-1), score_BLNV.logsumexp(-1), -torch.inf)
    return values_BLNK.flatten(2) + bias_D, lse_BLN


def problem(size, dtype=torch.float32, missing: bool = True) -> tuple[list[Tensor], Tensor]:
    """Image and maps in float64 (values that `dtype` holds exactly), and the gradient of the output."""
    B, V, p, N, K, rows, columns = size
    draw = torch.Generator().manual_seed(sum(size))
    shapes = ((B, V, rows * p, columns * p), (N, V, p * p), (N, V), (N, V, K, p * p), (N, V, K), (N * K,))
    scales = (1, 1 / p, 1, 1 / p, 1, 1)
    x, *maps = (torch.randn(s, generator=draw).mul(c).to(dtype).double() for s, c in zip(shapes, scales, strict=True))
    do_BLD = torch.randn(B, rows * columns, N * K, generator=draw).to(dtype).double()
    return [scatter_missing(x, p) if missing else x, *maps], do_BLD


def expected(inputs: list[Tensor], do_BLD: Tensor, patch: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    inputs = [t.clone().requires_grad_() for t in inputs]
    o_BLD, lse_BLN = aggregate_reference(*inputs, patch)
    gradients = torch.autograd.grad(o_BLD, inputs, do_BLD)
    return o_BLD.detach(), lse_BLN.detach(), dict(zip(NAMES, gradients, strict=True))


def ours(inputs, do_BLD, patch: int, dtype=torch.float32, need_dx: bool = True):
    device = triton_device()
    x, maps, do_BLD = inputs[0].to(device, dtype), [t.to(device).float() for t in inputs[1:]], do_BLD.to(device, dtype)
    o_BLD, lse_BLN = aggregate_variables_triton_forward(x, *maps, patch)
    gradients = aggregate_variables_triton_backward(do_BLD, x, *maps, o_BLD, lse_BLN, patch, need_dx)
    on_cpu = (None if gradient is None else gradient.cpu() for gradient in gradients)
    return o_BLD.cpu(), lse_BLN.cpu(), dict(zip(NAMES, on_cpu, strict=True))


def check(size, dtype=torch.float32, missing: bool = True) -> None:
    inputs, do_BLD = problem(size, dtype, missing)
    patch, tolerance = size[2], TOLERANCE[dtype]
    o_BLD, lse_BLN, gradients = ours(inputs, do_BLD, patch, dtype)
    o_reference, lse_reference, gradients_reference = expected(inputs, do_BLD, patch)
    assert o_BLD.dtype == gradients["dx"].dtype == dtype
    assert relative_error(o_BLD, o_reference) < tolerance
    assert torch.equal(lse_BLN.isinf(), lse_reference.isinf())
    finite = lse_reference.isfinite()
    assert relative_error(lse_BLN[finite], lse_reference[finite]) < FLOAT32_TOLERANCE
    for name, gradient in gradients.items():
        truth = gradients_reference[name]
        assert gradient.shape == truth.shape
        if name.startswith("dS") and size[1] == 1:  # one variable has weight 1 whatever its score
            assert gradient.abs().max() < tolerance * 10, name
        else:
            assert relative_error(gradient, truth) < tolerance, name
    assert (gradients["dx"][inputs[0].isnan()] == 0).all()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_matches_reference(size):
    check(size)


def test_matches_reference_of_patches_of_16(monkeypatch):
    """With small tiles: the interpreter pays for each of 257 planes and 128 rows."""
    small = tiles.Tile(rows=16, planes=16, warps=4, stages=1)
    monkeypatch.setattr(tiles, "ROW_BLOCK", small.rows)
    monkeypatch.setattr(tiles, "tile", lambda *_: small)
    check((2, 5, 16, 1, 8, 1, 2))


def test_matches_reference_where_nothing_is_missing():
    check((2, 5, 2, 3, 24, 5, 3), missing=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_the_parameters_match_the_textbook_form(dtype):
    """Pixels to heads' outputs and back through the maps, against tokens, keys and values of `reference.py`.

    Float32 to the project's bound, bfloat16 to the errors that the textbook form makes in bfloat16.
    """
    B, V, p, N, K, rows, columns = 2, 5, 2, 3, 24, 5, 3
    (x_BVHW, *_), do_BLD = problem((B, V, p, N, K, rows, columns), dtype)
    D, draw = N * K, torch.Generator().manual_seed(4)
    shapes = ((V, D, p, p), (V, D), (V, D), (D,), (3 * D, D), (3 * D,))
    parameters = [torch.randn(shape, generator=draw).div(shape[-1] ** 0.5).to(dtype).double() for shape in shapes]

    def textbook(dtype: torch.dtype) -> list[Tensor]:
        weight_VDpp, bias_VD, embed_VD, *rest = roots = [t.to(dtype).requires_grad_() for t in parameters]
        tokens = tokenise(x_BVHW.to(dtype), weight_VDpp, bias_VD, embed_VD)
        o_BLD = cross_attend(*tokens, *rest, N)
        return [o_BLD, *torch.autograd.grad(o_BLD, roots, do_BLD.to(dtype))]

    roots = [t.float().requires_grad_() for t in parameters]
    maps = build_maps(*roots, N)
    o_BLD, _, gradients = ours([x_BVHW, *(t.detach() for t in maps)], do_BLD, p, dtype)
    mine = [o_BLD, *torch.autograd.grad(maps, roots, [gradients[name] for name in NAMES[1:]])]
    truths = textbook(torch.float64)
    errors = [relative_error(gradient, truth) for gradient, truth in zip(mine, truths, strict=True)]
    bounds = [FLOAT32_TOLERANCE] * len(truths)
    if dtype != torch.float32:
        bounds = [relative_error(gradient, truth) for gradient, truth in zip(textbook(dtype), truths, strict=True)]
    assert all(error < bound for error, bound in zip(errors, bounds, strict=True)), (errors, bounds)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    check((2, 17, 2, 2, 24, 5, 3), dtype)


def test_float32_gradients_of_a_location_with_nothing_are_those_of_the_bias():
    (x, *maps), do_BLD = problem((1, 5, 2, 2, 16, 1, 1))
    o_BLD, lse_BLN, gradients = ours([torch.full_like(x, torch.nan), *maps], do_BLD, 2)
    assert torch.equal(o_BLD[0, 0], maps[-1].float())
    assert (lse_BLN == -torch.inf).all()
    assert torch.equal(gradients.pop("dbias_D"), do_BLD[0, 0].float())
    assert all((gradient == 0).all() for gradient in gradients.values())


def test_chunks_and_parts_change_only_the_rounding(monkeypatch):
    """Three chunks, the last one short, against one; three parts of the rows against one."""
    inputs, do_BLD = problem((3, 5, 1, 1, 16, 11, 10))
    whole = ours(inputs, do_BLD, 1)
    monkeypatch.setattr(tiles, "MAX_CHUNK_ROWS", 128)
    monkeypatch.setattr(launch_triton, "DMAPS_PROGRAMS", 1)
    chunked = ours(inputs, do_BLD, 1)
    assert torch.equal(whole[0], chunked[0])
    assert torch.equal(whole[1], chunked[1])
    assert torch.equal(whole[2]["dx"], chunked[2]["dx"])
    for name, gradient in chunked[2].items():
        assert relative_error(gradient, whole[2][name]) < 1e-6, name


def test_same_bits_twice():
    inputs, do_BLD = problem((2, 5, 1, 2, 16, 9, 10))
    first, second = (ours(inputs, do_BLD, 1) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert all(torch.equal(first[2][name], second[2][name]) for name in NAMES)


def test_strided_images_and_no_gradient_of_the_image():
    inputs, do_BLD = problem((2, 5, 2, 1, 16, 2, 3))
    strided = inputs[0].transpose(2, 3).contiguous().transpose(2, 3)
    gradients = ours([strided, *inputs[1:]], do_BLD.transpose(0, 1).contiguous().transpose(0, 1), 2, need_dx=False)[2]
    expected_gradients = ours(inputs, do_BLD, 2)[2]
    assert gradients.pop("dx") is None
    assert all(torch.equal(gradient, expected_gradients[name]) for name, gradient in gradients.items())


def test_refusals():
    (x, *maps), _ = problem((1, 2, 2, 1, 16, 3, 3))
    with pytest.raises(ValueError, match="patch edge 3: the Triton kernels take 1, 2, 4, 8 or 16"):
        aggregate_variables_triton_forward(x.float(), *maps, 3)
    wide = problem((1, 1, 1, 1, 129, 1, 1))[0]
    with pytest.raises(ValueError, match="heads of width 129: the Triton kernels take at most 128; use more heads"):
        aggregate_variables_triton_forward(*(t.float() for t in wide), 1)
    with pytest.raises(ValueError, match=r"image in torch\.float64"):
        aggregate_variables_triton_forward(x, *maps, 2)
