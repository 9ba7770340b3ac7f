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
from collections.abc import Iterator

import torch
from torch import Tensor

from climax_hpc.kernels.workspace import Scratch

# Four arrays of this size are in use at a time: 2 MiB, the second-level caches of two server cores. A quarter of it is
# slower although it fits one core (128 runs at 128×256, each some fifty calls into PyTorch), eight times it leaves L2.
RUN_BYTES = 1 << 19

Box = tuple[int, slice, slice]


def are_fields(h_BLPO: Tensor, patch: int) -> bool:
    """Whether the head output is a view of fields (B, O, H, W), as `lat_weighted_error` hands them in."""
    return patch == 1 and not h_BLPO.is_contiguous() and h_BLPO.transpose(1, 2).is_contiguous()


def gradient_like(h_BLPO: Tensor, patch: int) -> Tensor:
    """Unwritten memory for the gradient: laid out as fields where the head output is, else contiguous."""
    if are_fields(h_BLPO, patch):
        return h_BLPO.new_empty(h_BLPO.transpose(1, 2).shape).transpose(1, 2)
    return h_BLPO.new_empty(h_BLPO.shape)


def forward(
    h_BLPO: Tensor, y_BOHW: Tensor, weight_H: Tensor, patch: int, kind: str, huber_delta: float
) -> tuple[Tensor, Tensor]:
    """numerator_BO = sum(w·m·e) and denominator_BO = sum(w·m); at least float32, float64 if prediction or target is."""
    runs = _Runs(h_BLPO, y_BOHW, weight_H, patch)
    numerator_BO = h_BLPO.new_zeros(y_BOHW.shape[:2], dtype=runs.dtype)
    denominator_BO = torch.zeros_like(numerator_BO)
    for box in runs.boxes():
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
    for box in runs.boxes():
        diff_nO, weight_n, _ = runs.difference(box)
        slope_nO = _slope(diff_nO, kind, huber_delta)
        scale_nO = torch.outer(weight_n, dnumerator_BO[box[0]], out=runs.buffer("scale", *slope_nO.shape))
        dh_hwppO = dh_BhwppO[box]
        dh_hwppO.copy_(slope_nO.mul_(scale_nO).view(dh_hwppO.shape))
    return dh_BLPO


class _Runs:
    """Sizes, runs and buffers of one call."""

    def __init__(self, h_BLPO: Tensor, y_BOHW: Tensor, weight_H: Tensor, patch: int) -> None:
        self.y_BOHW, self.patch = y_BOHW, patch
        self.num_out, H, W = y_BOHW.shape[1:]
        self.rows, self.columns = H // patch, W // patch
        self.h_BhwppO = self.of_head(h_BLPO)
        self.dtype = torch.float64 if torch.float64 in (h_BLPO.dtype, y_BOHW.dtype) else torch.float32
        weight_hp = weight_H.to(self.dtype).view(self.rows, 1, patch, 1)
        self.weight_hwpp = weight_hp.expand(self.rows, self.columns, patch, patch).contiguous()
        self.buffer = Scratch(y_BOHW, self.dtype)

    def boxes(self) -> Iterator[Box]:
        """Sample, patch rows and patch columns of each run."""
        patches = max(1, RUN_BYTES // (self.patch**2 * self.num_out * self.dtype.itemsize))
        columns = min(self.columns, patches)
        rows = max(1, min(self.rows, patches // columns))
        for b in range(len(self.y_BOHW)):
            for h in range(0, self.rows, rows):
                for w in range(0, self.columns, columns):
                    yield b, slice(h, min(h + rows, self.rows)), slice(w, min(w + columns, self.columns))

    def of_head(self, t_BLPO: Tensor) -> Tensor:
        """A tensor like the head output as samples, patch rows and columns, pixel rows and columns, variables."""
        p = self.patch
        return t_BLPO.unflatten(2, (p, p, self.num_out)).unflatten(1, (self.rows, self.columns))

    def difference(self, box: Box) -> tuple[Tensor, Tensor, Tensor | None]:
        """Prediction minus target diff_nO (0 where the target is missing), weight_n, and missing_nO if any is."""
        b, rows, columns = box
        p, h, w = self.patch, rows.stop - rows.start, columns.stop - columns.start
        n = h * w * p * p
        target_On = self.buffer("target", self.num_out, n)
        target_On.view(self.num_out, h * p, w * p).copy_(
            self.y_BOHW[b, :, rows.start * p : rows.stop * p, columns.start * p : columns.stop * p]
        )
        y_nO = self.buffer("transposed", n, self.num_out).copy_(target_On.t())
        y_hwppO = y_nO.view(h, p, w, p, self.num_out).transpose(1, 2)
        diff_nO = self.buffer("difference", n, self.num_out)
        torch.sub(self.h_BhwppO[box], y_hwppO, out=diff_nO.view(y_hwppO.shape))
        weight_n = self.weight_hwpp[rows, columns].reshape(n)

        missing_nO = None
        if math.isnan(diff_nO.sum().item()):  # cheaper than looking at every target; also true of a broken prediction
            missing_nO = y_hwppO.isnan().reshape(n, self.num_out)
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
