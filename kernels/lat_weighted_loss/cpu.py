"""The loss sums and their gradient on a processor: over runs of patches that fit its cache, target brought to the head.

Dimensions: B batch · O output variables · H latitude rows · W longitude columns · p patch edge · P = p·p pixels ·
L = (H/p)·(W/p) patches, row-major · h, w patch rows and columns of one run · n = h·w·P pixels of one run.

A run of the target is copied to the cache, transposed there to "variable fastest" (the order of the head output) and
subtracted; head output and gradient are then read and written in order, once, and no error tensor leaves the cache.
The gradient is made in the backward pass from the head output and the target, not kept from the forward pass: a kept
one would have to be scaled by the incoming gradient into a second tensor of the prediction's size, or in place, which
a second backward through a retained graph would not survive. Its traffic is the same: five times the prediction.
"""

import math

import torch
from torch import Tensor

from climax_hpc.kernels.patch_runs import Box, PatchRuns, gradient_like, sum_dtype

# Four arrays of this size are in use at a time: 2 MiB, the second-level caches of two server cores. A quarter of it is
# slower although it fits one core (128 runs at 128×256, each some fifty calls into PyTorch), eight times it leaves L2.
RUN_BYTES = 1 << 19


def forward(
    h_BLPO: Tensor, y_BOHW: Tensor, weight_H: Tensor, patch: int, kind: str, huber_delta: float
) -> tuple[Tensor, Tensor]:
    """numerator_BO = sum(w·m·e) and denominator_BO = sum(w·m); at least float32, float64 if prediction or target is."""
    runs = _Runs(h_BLPO, y_BOHW, weight_H, patch)
    numerator_BO = h_BLPO.new_zeros(y_BOHW.shape[:2], dtype=runs.dtype)
    denominator_BO = torch.zeros_like(numerator_BO)
    for box in runs.boxes(len(y_BOHW), RUN_BYTES):
        diff_nO, weight_n, missing_nO = runs.difference(box)
        if missing_nO is None:
            denominator_BO[box[0]] += weight_n.sum()
        else:
            denominator_BO[box[0]] += torch.mv((~missing_nO).to(runs.dtype).t(), weight_n)
        numerator_BO[box[0]] += torch.mv(_pointwise(diff_nO, kind, huber_delta).t(), weight_n)
    return numerator_BO, denominator_BO


def backward(
    dnumerator_BO: Tensor,
    h_BLPO: Tensor,
    y_BOHW: Tensor,
    weight_H: Tensor,
    patch: int,
    kind: str,
    huber_delta: float,
) -> Tensor:
    """Gradient of the head output, in its dtype: dnumerator·w·m·e'."""
    runs = _Runs(h_BLPO, y_BOHW, weight_H, patch)
    dh_BLPO = gradient_like(h_BLPO, patch)
    dh_BhwppO = runs.of_head(dh_BLPO)
    for box in runs.boxes(len(y_BOHW), RUN_BYTES):
        diff_nO, weight_n, _ = runs.difference(box)
        slope_nO = _slope(diff_nO, kind, huber_delta)
        scale_nO = torch.outer(weight_n, dnumerator_BO[box[0]], out=runs.buffer("scale", *slope_nO.shape))
        dh_hwppO = dh_BhwppO[box]
        dh_hwppO.copy_(slope_nO.mul_(scale_nO).view(dh_hwppO.shape))
    return dh_BLPO


class _Runs(PatchRuns):
    """Runs of a prediction and its target."""

    def __init__(self, h_BLPO: Tensor, y_BOHW: Tensor, weight_H: Tensor, patch: int) -> None:
        dtype = sum_dtype(h_BLPO, y_BOHW)
        super().__init__(y_BOHW.shape[1], y_BOHW.shape[3], weight_H, patch, dtype)
        self.y_BOHW = y_BOHW
        self.h_BhwppO = self.of_head(h_BLPO)

    def difference(self, box: Box) -> tuple[Tensor, Tensor, Tensor | None]:
        """Prediction minus target diff_nO (0 where the target is missing), weight_n, and missing_nO if any is."""
        y_hwppO, weight_n = self.target(self.y_BOHW, box), self.weight(box)
        diff_nO = self.buffer("difference", len(weight_n), self.num_out)
        torch.sub(self.h_BhwppO[box], y_hwppO, out=diff_nO.view(y_hwppO.shape))

        missing_nO = None
        if math.isnan(diff_nO.sum().item()):  # cheaper than looking at every target; also true of a broken prediction
            missing_nO = y_hwppO.isnan().reshape(diff_nO.shape)
            # The difference is zeroed before it is squared: 0·NaN would put NaN into the gradient.
            diff_nO.masked_fill_(missing_nO, 0)
        return diff_nO, weight_n, missing_nO


def _pointwise(diff: Tensor, kind: str, huber_delta: float) -> Tensor:
    """Error of each pixel, in the memory of the difference."""
    if kind == "mse":
        return diff.mul_(diff)
    if kind == "mae":
        return diff.abs_()
    inside = diff.clamp(-huber_delta, huber_delta)
    return diff.sub_(inside, alpha=0.5).mul_(inside)  # c·(d - c/2) with c the clamped difference d


def _slope(diff: Tensor, kind: str, huber_delta: float) -> Tensor:
    """Derivative of the error of each pixel, in the memory of the difference."""
    if kind == "mse":
        return diff.mul_(2)
    return diff.sign_() if kind == "mae" else diff.clamp_(-huber_delta, huber_delta)
