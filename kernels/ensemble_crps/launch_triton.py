"""Runs the Triton kernels of the ensemble CRPS: tiles, partial sums.

Dimensions: B batch · M members · O output variables · H latitude rows · W longitude columns · p patch edge ·
P = p·p pixels · L = (H/p)·(W/p) patches · Z blocks of patches.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from climax_hpc.kernels.dispatch import check_triton_dtype, device_of
from climax_hpc.kernels.ensemble_crps import kernels
from climax_hpc.kernels.ensemble_crps.members import broken_code, code_dtype, pair_weight
from climax_hpc.kernels.patch_runs import are_fields, gradient_like

GROUP = 8
"""Most members in registers at a time, each with its rank: all of an ensemble of 8, a quarter of one of 32."""
GRADIENT_BLOCK = 1024


def constants(members: int, patch: int, gradient: bool, fields: bool = False) -> dict[str, Any]:
    """Compile-time arguments and launch options of the sums.

    With 16 variables 256 cells at a time, one for each thread, which holds 8 members and their ranks. Above 16 members
    half of both, because Triton 3.6 would spill registers on sm_90.
    """
    many = members > 16 and patch < 16
    return {
        "M": members, "GROUP": min(members, GROUP), "p": patch, "BLOCK": (8 if many else 16) // patch,
        "BROKEN": broken_code(code_dtype(members)), "GRADIENT": gradient, "FIELDS": fields,
        "num_warps": 4 if many else 8, "num_stages": 1,
    }  # fmt: skip


def gradient_constants(members: int, patch: int, fields: bool = False) -> dict[str, Any]:
    """Compile-time arguments and launch options of the gradient."""
    return {
        "M": members, "p": patch, "BLOCK": GRADIENT_BLOCK, "BROKEN": broken_code(code_dtype(members)),
        "FIELDS": fields, "num_warps": 4, "num_stages": 1,
    }  # fmt: skip


def ensemble_crps_triton_forward(
    h_BMLPO: Tensor, y_BOHW: Tensor, weight_H: Tensor, patch: int, alpha: float, gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """numerator_BO = sum(w·m·CRPS), denominator_BO = sum(w·m), float32, and with `gradient` the codes of all members.

    Raises:
        ValueError: patch edge or data types that the kernel does not take.
    """
    if patch not in (1, 2, 4, 8, 16):
        raise ValueError(f"patch edge {patch}: the Triton kernel takes 1, 2, 4, 8 or 16")
    check_triton_dtype("head output", h_BMLPO)
    check_triton_dtype("target", y_BOHW)
    h_BMLPO = h_BMLPO if are_fields(h_BMLPO, patch) else h_BMLPO.contiguous()
    (B, num_out, H, W), (M, L) = y_BOHW.shape, h_BMLPO.shape[1:3]
    options = constants(M, patch, gradient, are_fields(h_BMLPO, patch))
    blocks = triton.cdiv(L, options["BLOCK"])
    sums_2BZO = h_BMLPO.new_empty(2, B, blocks, num_out, dtype=torch.float32)
    dtype = code_dtype(M)
    code_BMLPO = gradient_like(h_BMLPO, patch, dtype) if gradient else h_BMLPO.new_empty(0, dtype=dtype)
    with device_of(h_BMLPO):
        kernels.crps_kernel[(blocks, triton.cdiv(num_out, 16), B)](
            h_BMLPO, y_BOHW.contiguous(), weight_H.float().contiguous(), code_BMLPO, *sums_2BZO.unbind(0),
            L, W // patch, num_out, W, H * W, pair_weight(M, alpha), **options,
        )  # fmt: skip
    numerator_BO, denominator_BO = (part.sum(dim=1) for part in sums_2BZO)  # two tensors: operators may not share one
    return numerator_BO, denominator_BO, code_BMLPO


def ensemble_crps_triton_backward(
    coefficient_BO: Tensor, code_BMLPO: Tensor, weight_H: Tensor, patch: int, alpha: float, dtype: torch.dtype
) -> Tensor:
    """dh_BMLPO = coefficient·w·m·(t/M - pair_weight·r), of type `dtype`; `coefficient_BO` = d loss / d numerator_BO."""
    B, M, L, PO = code_BMLPO.shape
    H, cells = len(weight_H), L * PO
    fields = are_fields(code_BMLPO, patch)
    W = L * patch**2 // H
    dh_BMLPO = gradient_like(code_BMLPO, patch, dtype)
    with device_of(code_BMLPO):
        kernels.crps_gradient_kernel[(triton.cdiv(cells, GRADIENT_BLOCK), B * M)](
            code_BMLPO, weight_H.float().contiguous(), coefficient_BO.float().contiguous(), dh_BMLPO,
            W // patch, PO // patch**2, W, H * W, pair_weight(M, alpha), **gradient_constants(M, patch, fields),
        )  # fmt: skip
    return dh_BMLPO
