"""Latitude-weighted, masked CRPS of an ensemble straight from the head output, or from fields.

Dimensions: B batch · M members · O output variables · H latitude rows · W longitude columns · p patch edge ·
P = p·p pixels · L = (H/p)·(W/p) patches, row-major. README.md gives the formula.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from climax_hpc.kernels.dispatch import use_triton
from climax_hpc.kernels.ensemble_crps import cpu
from climax_hpc.kernels.ensemble_crps.members import MOST_MEMBERS, code_dtype
from climax_hpc.kernels.lat_weighted_loss.op import Total, loss_of_sums
from climax_hpc.kernels.patch_runs import check_weights, gradient_like, head_shape, sum_dtype


def ensemble_crps(
    h_BMLPO: Tensor,
    y_BOHW: Tensor,
    weight_H: Tensor,
    patch: int,
    *,
    alpha: float = 0.95,
    variable_weight_O: Tensor | None = None,
    total: Total | None = None,
) -> tuple[Tensor, Tensor]:
    """Almost fair CRPS (scalar) and detached loss_BO of the head outputs of M members; NaN targets are missing.

    In every cell alpha · fair CRPS + (1 - alpha) · CRPS (afCRPS of Lang et al. 2024, arXiv 2412.15832): alpha = 1 is
    fair, 0 the plain score of the ensemble as it is. Of one member it is the absolute error. Its unit is the target's.
    loss_BO = sum(w·m·CRPS) / sum(w·m) over the pixels of a field, NaN where it has no valid pixel (such a field is left
    out of the scalar); the scalar is the weighted mean over variables, then the mean over samples.

    Args:
        h_BMLPO: head outputs (B, M, L, P·O), the members of a sample adjacent, ordered patch rows, patch columns,
            variable fastest. Sums are at least float32; float64 if an input is.
        y_BOHW: targets; NaN is missing.
        weight_H: area weight of each latitude row; its scale cancels.
        patch: edge of a patch.
        alpha: from 0 to 1.
        variable_weight_O: weight of each variable in the scalar; None: equal weights.
        total: as of `lat_weighted_loss`, for parts of larger fields; None: the fields are whole.

    Raises:
        ValueError: alpha out of its range, fields not made of whole patches, or a head output of another size.
    """
    expected = (len(y_BOHW), *head_shape(y_BOHW, patch))
    if h_BMLPO.ndim != 4 or (*h_BMLPO.shape[:1], *h_BMLPO.shape[2:]) != expected:
        wanted = f"({expected[0]}, members, {expected[1]}, {expected[2]})"
        raise ValueError(f"head output has shape {tuple(h_BMLPO.shape)}, the targets ask for {wanted}")
    return _loss(h_BMLPO, y_BOHW, weight_H, patch, alpha, variable_weight_O, total)


def ensemble_crps_of_fields(
    pred_BMOHW: Tensor,
    y_BOHW: Tensor,
    weight_H: Tensor,
    *,
    alpha: float = 0.95,
    variable_weight_O: Tensor | None = None,
    total: Total | None = None,
) -> tuple[Tensor, Tensor]:
    """The same loss of predicted fields (B, M, O, H, W).

    Raises:
        ValueError: alpha out of its range, or members and targets of different shapes.
    """
    if pred_BMOHW.ndim != 5 or pred_BMOHW[:, 0].shape != y_BOHW.shape:
        raise ValueError(f"members {tuple(pred_BMOHW.shape)} and targets {tuple(y_BOHW.shape)} differ in shape")
    h_BMLO = pred_BMOHW.flatten(3).transpose(2, 3)  # fields are the head output of patches of one pixel
    return _loss(h_BMLO, y_BOHW, weight_H, 1, alpha, variable_weight_O, total)


def _loss(
    h_BMLPO: Tensor,
    y_BOHW: Tensor,
    weight_H: Tensor,
    patch: int,
    alpha: float,
    variable_weight_O: Tensor | None,
    total: Total | None,
) -> tuple[Tensor, Tensor]:
    M = h_BMLPO.shape[1]
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha = {alpha:g}: must be from 0 (plain CRPS) to 1 (fair CRPS)")
    if not 1 <= M <= MOST_MEMBERS:
        raise ValueError(f"{M} members: must be from 1 to {MOST_MEMBERS}")
    check_weights(weight_H, y_BOHW)
    gradient = torch.is_grad_enabled() and h_BMLPO.requires_grad
    with torch.autocast(y_BOHW.device.type, enabled=False):
        numerator_BO, denominator_BO, _ = _crps_sums(h_BMLPO, y_BOHW, weight_H, patch, alpha, gradient)
        if total is not None:
            denominator_BO = total(denominator_BO)
        return loss_of_sums(numerator_BO, denominator_BO, variable_weight_O)


@torch.library.custom_op("climax_hpc::ensemble_crps_sums", mutates_args=())
def _crps_sums(
    h_BMLPO: Tensor, y_BOHW: Tensor, weight_H: Tensor, patch: int, alpha: float, gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """numerator_BO = sum(w·m·CRPS), denominator_BO = sum(w·m), and the members' codes, empty without `gradient`."""
    with torch.autocast(y_BOHW.device.type, enabled=False):
        return _forward(h_BMLPO)(h_BMLPO, y_BOHW, weight_H, patch, alpha, gradient)


@torch.library.custom_op("climax_hpc::ensemble_crps_sums_backward", mutates_args=())
def _crps_sums_backward(
    dnumerator_BO: Tensor, code_BMLPO: Tensor, weight_H: Tensor, patch: int, alpha: float, dtype: torch.dtype
) -> Tensor:
    """Gradient of the head output, of type `dtype`."""
    with torch.autocast(code_BMLPO.device.type, enabled=False):
        return _backward(dnumerator_BO)(dnumerator_BO, code_BMLPO, weight_H, patch, alpha, dtype)


def _forward(h_BMLPO: Tensor) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Forward pass for the device of h: Triton on GPUs, runs of patches on processors (`dispatch.py`)."""
    if use_triton(h_BMLPO):
        from climax_hpc.kernels.ensemble_crps.launch_triton import ensemble_crps_triton_forward

        return ensemble_crps_triton_forward
    return cpu.forward


def _backward(dnumerator_BO: Tensor) -> Callable[..., Tensor]:
    """Backward pass for the device and the type of the sums; both forms take the codes of either."""
    if use_triton(dnumerator_BO):
        from climax_hpc.kernels.ensemble_crps.launch_triton import ensemble_crps_triton_backward

        return ensemble_crps_triton_backward
    return cpu.backward


@_crps_sums.register_fake
def _(
    h_BMLPO: Tensor, y_BOHW: Tensor, weight_H: Tensor, patch: int, alpha: float, gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = sum_dtype(h_BMLPO, y_BOHW)
    shape, of_code = y_BOHW.shape[:2], code_dtype(h_BMLPO.shape[1])
    code_BMLPO = gradient_like(h_BMLPO, patch, of_code) if gradient else h_BMLPO.new_empty(0, dtype=of_code)
    return h_BMLPO.new_empty(shape, dtype=dtype), h_BMLPO.new_empty(shape, dtype=dtype), code_BMLPO


@_crps_sums_backward.register_fake
def _(
    dnumerator_BO: Tensor, code_BMLPO: Tensor, weight_H: Tensor, patch: int, alpha: float, dtype: torch.dtype
) -> Tensor:
    return gradient_like(code_BMLPO, patch, dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    h_BMLPO, _, weight_H, ctx.patch, ctx.alpha, _ = inputs
    ctx.dtype = h_BMLPO.dtype
    ctx.save_for_backward(output[2], weight_H)
    ctx.mark_non_differentiable(*output[1:])  # the denominator and the codes
    ctx.set_materialize_grads(False)  # else the codes would get a gradient of zeros, as large as they are


def _gradients(ctx: Any, dnumerator_BO: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if dnumerator_BO is None:
        return None, None, None, None, None, None
    dh_BMLPO = _crps_sums_backward(dnumerator_BO, *ctx.saved_tensors, ctx.patch, ctx.alpha, ctx.dtype)
    return dh_BMLPO, None, None, None, None, None


_crps_sums.register_autograd(_gradients, setup_context=_save)
