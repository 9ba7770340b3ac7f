"""Runs the Triton kernel of the latitude-weighted loss: tiles, partial sums.

Dimensions: B batch · O output variables · H latitude rows · W longitude columns · p patch edge · P = p·p pixels ·
L = (H/p)·(W/p) patches · Z blocks of patches.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from climax_hpc.kernels.dispatch import check_triton_dtype, device_of
from climax_hpc.kernels.lat_weighted_loss import kernels
from climax_hpc.kernels.patch_runs import are_fields, gradient_like

WARPS = 4


def block_patches(patch: int) -> int:
    """Patches of one program: with 16 variables 1024 pixels at a time, 8 for each thread, so that nothing spills."""
    return max(1, 64 // patch)


def constants(patch: int, kind: str, sums: bool, gradient: bool, fields: bool = False) -> dict[str, Any]:
    """Compile-time arguments and launch options."""
    return {
        "p": patch, "BLOCK": block_patches(patch), "KIND": kind, "SUMS": sums, "GRADIENT": gradient,
        "FIELDS": fields, "num_warps": WARPS, "num_stages": 1,
    }  # fmt: skip


def lat_weighted_loss_triton_forward(
    h_BLPO: Tensor,
    y_BOHW: Tensor,
    weight_H: Tensor,
    patch: int,
    kind: str,
    huber_delta: float,
    coefficient_BO: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """numerator_BO = sum(w·m·e), denominator_BO = sum(w·m), float32, and dh_BLPO if `coefficient_BO` is given.

    `coefficient_BO` is the derivative of the loss with respect to each numerator; a caller that knows the denominators
    beforehand (they depend on the target's gaps only) gets sums and gradient in one pass. Others call
    `lat_weighted_loss_triton_backward` once the denominators are there: it reads h and y again, which costs no more
    traffic than writing an unscaled gradient and scaling it later, and needs no memory in between.

    Raises:
        ValueError: patch edge or data types that the kernel does not take.
    """
    h_BLPO, y_BOHW = _checked(h_BLPO, y_BOHW, patch)
    B, num_out = y_BOHW.shape[:2]
    blocks = triton.cdiv(h_BLPO.shape[1], block_patches(patch))
    sums_2BZO = h_BLPO.new_empty(2, B, blocks, num_out, dtype=torch.float32)
    dh_BLPO = None if coefficient_BO is None else gradient_like(h_BLPO, patch)
    _launch(h_BLPO, y_BOHW, weight_H, patch, kind, huber_delta, coefficient_BO, dh_BLPO, sums_2BZO)
    numerator_BO, denominator_BO = (part.sum(dim=1) for part in sums_2BZO)  # two tensors: operators may not share one
    return numerator_BO, denominator_BO, dh_BLPO


def lat_weighted_loss_triton_backward(
    coefficient_BO: Tensor,
    h_BLPO: Tensor,
    y_BOHW: Tensor,
    weight_H: Tensor,
    patch: int,
    kind: str,
    huber_delta: float,
) -> Tensor:
    """dh_BLPO = coefficient·w·m·e'(h - y); `coefficient_BO` = d loss / d numerator_BO."""
    h_BLPO, y_BOHW = _checked(h_BLPO, y_BOHW, patch)
    dh_BLPO = gradient_like(h_BLPO, patch)
    _launch(h_BLPO, y_BOHW, weight_H, patch, kind, huber_delta, coefficient_BO, dh_BLPO, None)
    return dh_BLPO


def _checked(h_BLPO: Tensor, y_BOHW: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    if patch not in (1, 2, 4, 8, 16):
        raise ValueError(f"patch edge {patch}: the Triton kernel takes 1, 2, 4, 8 or 16")
    check_triton_dtype("head output", h_BLPO)
    check_triton_dtype("target", y_BOHW)
    return h_BLPO if are_fields(h_BLPO, patch) else h_BLPO.contiguous(), y_BOHW.contiguous()


def _launch(
    h_BLPO: Tensor,
    y_BOHW: Tensor,
    weight_H: Tensor,
    patch: int,
    kind: str,
    huber_delta: float,
    coefficient_BO: Tensor | None,
    dh_BLPO: Tensor | None,
    sums_2BZO: Tensor | None,
) -> None:
    B, num_out, H, W = y_BOHW.shape
    L = h_BLPO.shape[1]
    block = block_patches(patch)
    weight_H = weight_H.float().contiguous()
    coefficient_BO = weight_H if coefficient_BO is None else coefficient_BO.float().contiguous()
    numerator, denominator = (weight_H, weight_H) if sums_2BZO is None else sums_2BZO.unbind(0)
    with device_of(h_BLPO):
        kernels.loss_kernel[(triton.cdiv(L, block), triton.cdiv(num_out, 16), B)](
            h_BLPO, y_BOHW, weight_H, coefficient_BO, h_BLPO if dh_BLPO is None else dh_BLPO, numerator, denominator,
            L, W // patch, num_out, W, H * W, huber_delta,
            **constants(patch, kind, sums_2BZO is not None, dh_BLPO is not None, are_fields(h_BLPO, patch)),
        )  # fmt: skip
