"""Triton kernel of the latitude-weighted loss: sums and gradient in one pass.

Dimensions: B batch · O output variables · H latitude rows · W longitude columns · p patch edge · P = p·p pixels ·
L = (H/p)·(W/p) patches, row-major. The head output h (B, L, P·O) has the variable fastest, the target y (B, O, H, W)
the longitude: a tile of patches × patch columns × 16 variables is read along either's memory and meets in registers.
Predicted fields (B, O, H, W) may take h's place: then both are read alike.
"""

import triton
import triton.language as tl


@triton.jit
def error_and_slope(difference, delta, KIND: tl.constexpr):
    """e and e' of a difference."""
    if KIND == "mse":
        error = difference * difference
        slope = 2 * difference
    elif KIND == "mae":
        error = tl.abs(difference)
        slope = tl.where(difference > 0, 1.0, tl.where(difference < 0, -1.0, 0.0))
    else:
        size = tl.abs(difference)
        error = tl.where(size <= delta, 0.5 * difference * difference, delta * (size - 0.5 * delta))
        slope = tl.where(size <= delta, difference, tl.where(difference > 0, delta, -delta))
    return error, slope


@triton.jit
def loss_kernel(
    h, y, weight, coefficient, dh, numerator, denominator, L, patches_per_row, num_out, W, HW, delta,
    p: tl.constexpr, BLOCK: tl.constexpr, KIND: tl.constexpr, SUMS: tl.constexpr, GRADIENT: tl.constexpr,
    FIELDS: tl.constexpr,
):  # fmt: skip
    """numerator = sum w·m·e(h - y) and denominator = sum w·m of one block of patches; dh = coefficient·w·m·e'(h - y).

    m is 1 where y is not NaN; with FIELDS h and dh lie in memory as y does. Everything in float32, whatever the types
    of h and y. Each number has one writer: the partial sums [B, blocks of patches, O] are added by the caller in a
    fixed order.
    Grid: blocks of patches, blocks of 16 variables, samples.
    """
    patch = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, p)
    variable = tl.program_id(1) * 16 + tl.arange(0, 16)
    sample = tl.program_id(2)
    used = (patch < L)[:, None, None] & (variable < num_out)[None, None, :] & (column < p)[None, :, None]
    first_row = (patch // patches_per_row) * p
    of_field = first_row * W + (patch % patches_per_row) * p
    # 64 bits for the start of the sample only: 64-bit offsets for every element would double the registers.
    first_pixel = sample.to(tl.int64) * num_out * HW
    y += first_pixel
    h += first_pixel
    dh += first_pixel
    from_y = of_field[:, None, None] + column[None, :, None] + (variable * HW)[None, None, :]
    if FIELDS:
        from_h = from_y
        row_of_h = W
    else:
        from_h = patch[:, None, None] * (p * p * num_out) + column[None, :, None] * num_out + variable[None, None, :]
        row_of_h = p * num_out
    if GRADIENT:
        scale = tl.load(coefficient + sample * num_out + variable, mask=variable < num_out, other=0.0)[None, None, :]
    weighted_error = tl.zeros((BLOCK, p, 16), tl.float32)
    weight_sum = tl.zeros((BLOCK, p, 16), tl.float32)
    for i in range(p):
        truth = tl.load(y + from_y + i * W, mask=used, other=float("nan")).to(tl.float32)
        valid = truth == truth
        prediction = tl.load(h + from_h + i * row_of_h, mask=used, other=0.0).to(tl.float32)
        w = tl.load(weight + first_row + i, mask=patch < L, other=0.0)[:, None, None]
        difference = tl.where(valid, prediction - truth, 0.0)
        error, slope = error_and_slope(difference, delta, KIND)
        if SUMS:
            weighted_error += w * error
            weight_sum += tl.where(valid, w, 0.0)
        if GRADIENT:
            # A NaN prediction gives NaN here as in the loss, so that the training guard sees it.
            slope = tl.where(difference == difference, slope, difference)
            gradient = tl.where(valid, scale * w * slope, 0.0)
            tl.store(dh + from_h + i * row_of_h, gradient.to(dh.dtype.element_ty), mask=used)
    if SUMS:
        out = (sample * tl.num_programs(0) + tl.program_id(0)) * num_out + variable
        tl.store(numerator + out, tl.sum(tl.sum(weighted_error, axis=0), axis=0), mask=variable < num_out)
        tl.store(denominator + out, tl.sum(tl.sum(weight_sum, axis=0), axis=0), mask=variable < num_out)
