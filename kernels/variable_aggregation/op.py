"""Tokenise and aggregate variables without tokens: maps from the parameters, and one operator from pixels to heads.

Dimensions: B batch · V variables · H latitude rows · W longitude columns · p patch edge · P = p·p pixels of a patch ·
Q = P+1 (the pixels and the constant) · L = (H/p)·(W/p) patches, row-major · D embedding · N heads · K = D/N head width.
README.md derives the algebra.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from climax_hpc.kernels.dispatch import use_triton
from climax_hpc.kernels.variable_aggregation import cpu


class Maps(NamedTuple):
    """All that the image is multiplied by; small, rebuilt from the parameters once per step."""

    S_NVP: Tensor
    """Score per unit of pixel."""
    S0_NV: Tensor
    """Score of the patch bias and the variable embedding."""
    M_NVKP: Tensor
    """Value per unit of pixel."""
    M0_NVK: Tensor
    """Value of the patch bias and the variable embedding."""
    bias_D: Tensor
    """Value bias; the whole output where every variable is missing."""


def build_maps(
    weight_VDpp: Tensor,
    bias_VD: Tensor,
    embed_VD: Tensor,
    query_D: Tensor,
    in_weight: Tensor,
    in_bias: Tensor,
    num_heads: int,
) -> Maps:
    """Maps of the variables whose rows are given, in float32 (float64 if a parameter is), autocast or not.

    `in_weight` (3D, D) and `in_bias` (3D) stack query, key and value projections. The key bias adds the same to every
    variable's score and cancels in the softmax: it takes no part.
    """
    parameters = (weight_VDpp, bias_VD, embed_VD, query_D, in_weight, in_bias)
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in parameters) else torch.float32
    with torch.autocast(in_weight.device.type, enabled=False):
        weight_VDpp, bias_VD, embed_VD, query_D, in_weight, in_bias = (t.to(dtype) for t in parameters)
        V, D = bias_VD.shape
        N, K = num_heads, D // num_heads
        weight_q, weight_k, weight_v = in_weight.chunk(3)
        bias_q, _, bias_v = in_bias.chunk(3)

        constant_VD1 = (bias_VD + embed_VD).unsqueeze(-1)
        token_DVQ = torch.cat([weight_VDpp.flatten(2).transpose(0, 1), constant_VD1.transpose(0, 1)], dim=-1).flatten(1)
        q_N1K = (F.linear(query_D, weight_q, bias_q) / K**0.5).view(N, 1, K)
        score_row_ND = (q_N1K @ weight_k.view(N, K, D)).squeeze(1)
        S_NVQ = (score_row_ND @ token_DVQ).view(N, V, -1)
        M_NVKQ = (weight_v @ token_DVQ).view(N, K, V, -1).transpose(1, 2)
        Q = S_NVQ.shape[-1]
        (S_NVP, S0_NV1), (M_NVKP, M0_NVK1) = (map_Q.split((Q - 1, 1), dim=-1) for map_Q in (S_NVQ, M_NVKQ))
        return Maps(S_NVP, S0_NV1.squeeze(-1), M_NVKP, M0_NVK1.squeeze(-1), bias_v)


def aggregate_variables(
    x_BVHW: Tensor, S_NVP: Tensor, S0_NV: Tensor, M_NVKP: Tensor, M0_NVK: Tensor, bias_D: Tensor, patch: int
) -> Tensor:
    """Heads' outputs o_BLD (dtype of x, computed in float32, or float64 if the maps are), before the output projection.

    NaN pixels are missing: a patch of a variable with no valid pixel has weight exactly 0, a partly missing one enters
    with 0 there, a location with nothing yields `bias_D`. No NaN reaches the output or a gradient.

    Raises:
        ValueError: H or W is no multiple of `patch`, or the maps are of another number of variables or patch size.
    """
    _check_shapes(x_BVHW, M_NVKP, patch)
    o_BLD, _ = _aggregate(x_BVHW, S_NVP, S0_NV, M_NVKP, M0_NVK, bias_D, patch)
    return o_BLD


def _check_shapes(x_BVHW: Tensor, M_NVKP: Tensor, patch: int) -> None:
    V, H, W = x_BVHW.shape[1:]
    if H % patch or W % patch:
        raise ValueError(f"image of {H} rows and {W} columns is not made of whole {patch}×{patch} patches; pad or crop")
    if M_NVKP.shape[1] != V or M_NVKP.shape[3] != patch * patch:
        raise ValueError(
            f"maps of {M_NVKP.shape[1]} variables and {M_NVKP.shape[3]} pixels do not fit {V} variables of "
            f"{patch}×{patch} patches; build the maps from the rows of the variables in the image"
        )


@torch.library.custom_op("climax_hpc::aggregate_variables", mutates_args=())
def _aggregate(
    x_BVHW: Tensor, S_NVP: Tensor, S0_NV: Tensor, M_NVKP: Tensor, M0_NVK: Tensor, bias_D: Tensor, patch: int
) -> tuple[Tensor, Tensor]:
    """o_BLD and lse_BLN."""
    with torch.autocast(x_BVHW.device.type, enabled=False):
        return _forward(x_BVHW)(x_BVHW, S_NVP, S0_NV, M_NVKP, M0_NVK, bias_D, patch)


@torch.library.custom_op("climax_hpc::aggregate_variables_backward", mutates_args=())
def _aggregate_backward(
    do_BLD: Tensor, x_BVHW: Tensor, S_NVP: Tensor, S0_NV: Tensor, M_NVKP: Tensor, M0_NVK: Tensor, bias_D: Tensor,
    o_BLD: Tensor, lse_BLN: Tensor, patch: int, wants_dx: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x (empty unless wanted), S, S0, M, M0 and bias."""
    with torch.autocast(x_BVHW.device.type, enabled=False):
        return _backward(x_BVHW)(do_BLD, x_BVHW, S_NVP, S0_NV, M_NVKP, M0_NVK, bias_D, o_BLD, lse_BLN, patch, wants_dx)


def _forward(x_BVHW: Tensor) -> Callable[..., tuple[Tensor, Tensor]]:
    """Forward pass for the device of x: Triton on GPUs, chunks on processors (`dispatch.py`)."""
    if use_triton(x_BVHW):
        from climax_hpc.kernels.variable_aggregation.launch_triton import aggregate_variables_triton_forward

        return aggregate_variables_triton_forward
    return cpu.forward


def _backward(x_BVHW: Tensor) -> Callable[..., Any]:
    """Backward pass for the device of x, the one that goes with `_forward`."""
    if use_triton(x_BVHW):
        from climax_hpc.kernels.variable_aggregation.launch_triton import aggregate_variables_triton_backward

        def backward(*arguments: Any) -> tuple[Tensor, ...]:
            dx_BVHW, *dmaps = aggregate_variables_triton_backward(*arguments)
            return x_BVHW.new_empty(0) if dx_BVHW is None else dx_BVHW, *dmaps

        return backward
    return cpu.backward


@_aggregate.register_fake
def _(
    x_BVHW: Tensor, S_NVP: Tensor, S0_NV: Tensor, M_NVKP: Tensor, M0_NVK: Tensor, bias_D: Tensor, patch: int
) -> tuple[Tensor, Tensor]:
    B, _, H, W = x_BVHW.shape
    N, _, K, _ = M_NVKP.shape
    L = (H // patch) * (W // patch)
    lse_dtype = torch.float64 if M_NVKP.dtype == torch.float64 else torch.float32
    return x_BVHW.new_empty(B, L, N * K), x_BVHW.new_empty(B, L, N, dtype=lse_dtype)


@_aggregate_backward.register_fake
def _(
    do_BLD: Tensor, x_BVHW: Tensor, S_NVP: Tensor, S0_NV: Tensor, M_NVKP: Tensor, M0_NVK: Tensor, bias_D: Tensor,
    o_BLD: Tensor, lse_BLN: Tensor, patch: int, wants_dx: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    dx_BVHW = x_BVHW.new_empty(x_BVHW.shape) if wants_dx else x_BVHW.new_empty(0)
    dS_NVP, dS0_NV, dM_NVKP, dM0_NVK, dbias_D = (t.new_empty(t.shape) for t in (S_NVP, S0_NV, M_NVKP, M0_NVK, bias_D))
    return dx_BVHW, dS_NVP, dS0_NV, dM_NVKP, dM0_NVK, dbias_D


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Image, maps, o (which the output projection keeps anyway) and log-sum-exp; everything else is recomputed."""
    *tensors, ctx.patch = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])  # the log-sum-exp


def _gradients(ctx: Any, do_BLD: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    wants_dx = ctx.needs_input_grad[0]
    dx_BVHW, *dmaps = _aggregate_backward(do_BLD, *ctx.saved_tensors, ctx.patch, wants_dx)
    return dx_BVHW if wants_dx else None, *dmaps, None


_aggregate.register_autograd(_gradients, setup_context=_save)
