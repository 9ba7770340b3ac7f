"""Latitude-weighted, masked MSE, MAE or Huber loss straight from the head output, or from fields.

Dimensions: B batch · O output variables · H latitude rows · W longitude columns · p patch edge · P = p·p pixels ·
L = (H/p)·(W/p) patches, row-major. README.md gives the formula.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from climax_hpc.kernels.dispatch import use_triton
from climax_hpc.kernels.lat_weighted_loss import cpu
from climax_hpc.kernels.patch_runs import check_weights, gradient_like, head_shape, sum_dtype

Kind = Literal["mse", "mae", "huber"]
Total = Callable[[Tensor], Tensor]
"""Sum of a tensor over all parts of a field that is shared out; without a gradient."""


def lat_weighted_loss(
    h_BLPO: Tensor,
    y_BOHW: Tensor,
    weight_H: Tensor,
    patch: int,
    *,
    kind: Kind = "mse",
    variable_weight_O: Tensor | None = None,
    huber_delta: float = 1.0,
    total: Total | None = None,
) -> tuple[Tensor, Tensor]:
    """Loss (scalar) and detached loss_BO of the head output (B, L, P·O) against fields; NaN targets are missing.

    loss_BO = sum(w·m·e) / sum(w·m) over the pixels of a field, NaN where it has no valid pixel (such a field is left
    out of the scalar); the scalar is the weighted mean over variables, then the mean over samples. `h_BLPO` is ordered
    patch rows, patch columns, variable fastest. At least float32; float64 if an input is.

    With `total` the fields are parts of larger ones, and the result is this part's share of their loss: the shares of
    all parts add up to it.

    Raises:
        ValueError: unknown kind, fields not made of whole patches, or a head output of another size.
    """
    expected = (len(y_BOHW), *head_shape(y_BOHW, patch))
    if tuple(h_BLPO.shape) != expected:
        raise ValueError(f"head output has shape {tuple(h_BLPO.shape)}, the targets ask for {expected}")
    return _loss(h_BLPO, y_BOHW, weight_H, patch, kind, variable_weight_O, huber_delta, total)


def lat_weighted_error(
    pred_BOHW: Tensor,
    y_BOHW: Tensor,
    weight_H: Tensor,
    *,
    kind: Kind = "mse",
    variable_weight_O: Tensor | None = None,
    huber_delta: float = 1.0,
    total: Total | None = None,
) -> tuple[Tensor, Tensor]:
    """The same loss of predicted fields.

    Raises:
        ValueError: unknown kind, or predictions and targets of different shapes.
    """
    if pred_BOHW.shape != y_BOHW.shape:
        raise ValueError(f"predictions {tuple(pred_BOHW.shape)} and targets {tuple(y_BOHW.shape)} differ in shape")
    h_BLO = pred_BOHW.flatten(2).transpose(1, 2)  # fields are the head output of patches of one pixel
    return _loss(h_BLO, y_BOHW, weight_H, 1, kind, variable_weight_O, huber_delta, total)


def _loss(
    h_BLPO: Tensor,
    y_BOHW: Tensor,
    weight_H: Tensor,
    patch: int,
    kind: Kind,
    variable_weight_O: Tensor | None,
    huber_delta: float,
    total: Total | None,
) -> tuple[Tensor, Tensor]:
    if kind not in get_args(Kind):
        raise ValueError(f"loss kind {kind!r}: use one of {', '.join(get_args(Kind))}")
    check_weights(weight_H, y_BOHW)
    with torch.autocast(y_BOHW.device.type, enabled=False):
        numerator_BO, denominator_BO = _loss_sums(h_BLPO, y_BOHW, weight_H, patch, kind, huber_delta)
        if total is not None:
            denominator_BO = total(denominator_BO)
        return loss_of_sums(numerator_BO, denominator_BO, variable_weight_O)


def loss_of_sums(
    numerator_BO: Tensor, denominator_BO: Tensor, variable_weight_O: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Loss and loss_BO from the sums over each field's pixels."""
    present_BO = denominator_BO > 0
    absent_BO = ~present_BO
    loss_BO = numerator_BO / denominator_BO.masked_fill(absent_BO, 1)
    share_BO = present_BO.to(loss_BO.dtype)
    if variable_weight_O is not None:
        share_BO = share_BO * variable_weight_O.to(loss_BO.dtype)
    share_B = share_BO.sum(dim=1)
    sample_B = (share_BO * loss_BO).sum(dim=1) / share_B.masked_fill(share_B == 0, 1)
    return sample_B.mean(), loss_BO.detach().masked_fill(absent_BO, torch.nan)


@torch.library.custom_op("climax_hpc::lat_weighted_sums", mutates_args=())
def _loss_sums(
    h_BLPO: Tensor, y_BOHW: Tensor, weight_H: Tensor, patch: int, kind: str, huber_delta: float
) -> tuple[Tensor, Tensor]:
    """numerator_BO = sum(w·m·e) and denominator_BO = sum(w·m) over the pixels of each field."""
    with torch.autocast(y_BOHW.device.type, enabled=False):
        return _forward(h_BLPO)(h_BLPO, y_BOHW, weight_H, patch, kind, huber_delta)


@torch.library.custom_op("climax_hpc::lat_weighted_sums_backward", mutates_args=())
def _loss_sums_backward(
    dnumerator_BO: Tensor, h_BLPO: Tensor, y_BOHW: Tensor, weight_H: Tensor, patch: int, kind: str, huber_delta: float
) -> Tensor:
    """Gradient of the head output."""
    with torch.autocast(y_BOHW.device.type, enabled=False):
        return _backward(h_BLPO)(dnumerator_BO, h_BLPO, y_BOHW, weight_H, patch, kind, huber_delta)


def _forward(h_BLPO: Tensor) -> Callable[..., tuple[Tensor, Tensor]]:
    """Forward pass for the device of h: Triton on GPUs, runs of patches on processors (`dispatch.py`)."""
    if use_triton(h_BLPO):
        from climax_hpc.kernels.lat_weighted_loss.launch_triton import lat_weighted_loss_triton_forward

        return lambda *arguments: lat_weighted_loss_triton_forward(*arguments)[:2]
    return cpu.forward


def _backward(h_BLPO: Tensor) -> Callable[..., Tensor]:
    """Backward pass for the device of h, the one that goes with `_forward`."""
    if use_triton(h_BLPO):
        from climax_hpc.kernels.lat_weighted_loss.launch_triton import lat_weighted_loss_triton_backward

        return lat_weighted_loss_triton_backward
    return cpu.backward


@_loss_sums.register_fake
def _(
    h_BLPO: Tensor, y_BOHW: Tensor, weight_H: Tensor, patch: int, kind: str, huber_delta: float
) -> tuple[Tensor, Tensor]:
    dtype = sum_dtype(h_BLPO, y_BOHW)
    shape = y_BOHW.shape[:2]
    return h_BLPO.new_empty(shape, dtype=dtype), h_BLPO.new_empty(shape, dtype=dtype)


@_loss_sums_backward.register_fake
def _(
    dnumerator_BO: Tensor, h_BLPO: Tensor, y_BOHW: Tensor, weight_H: Tensor, patch: int, kind: str, huber_delta: float
) -> Tensor:
    return gradient_like(h_BLPO, patch)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    h_BLPO, y_BOHW, weight_H, *ctx.options = inputs
    ctx.save_for_backward(h_BLPO, y_BOHW, weight_H)
    ctx.mark_non_differentiable(output[1])  # the denominator


def _gradients(ctx: Any, dnumerator_BO: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    dh_BLPO = _loss_sums_backward(dnumerator_BO, *ctx.saved_tensors, *ctx.options)
    return dh_BLPO, None, None, None, None, None


_loss_sums.register_autograd(_gradients, setup_context=_save)
