"""Triton kernels of the ensemble CRPS: sums and every member's code in one pass, and the gradient from the codes.

Dimensions: B batch · M members · O output variables · H latitude rows · W longitude columns · p patch edge ·
P = p·p pixels · L = (H/p)·(W/p) patches, row-major. The head output h (B, M, L, P·O) has the variable fastest, the
target y (B, O, H, W) the longitude: tiles of patches × patch columns × 16 variables, as in the latitude-weighted loss.
Predicted fields (B, M, O, H, W) may take h's place: then both are read alike.
"""

import triton
import triton.language as tl


@triton.jit
def sign_of(difference):
    """1, -1, or 0 where it is 0 or NaN."""
    return tl.where(difference > 0, 1.0, 0.0) - tl.where(difference < 0, 1.0, 0.0)


@triton.jit
def places_of(patch, column, variable, patches_per_row, num_out, W, HW, p: tl.constexpr, FIELDS: tl.constexpr):
    """Of a tile of patches × patch columns × variables: first latitude row, elements of y and of h in the first row of
    pixels, and elements of h from one row of pixels to the next; within one sample and member.
    """
    first_row = (patch // patches_per_row) * p
    of_field = first_row * W + (patch % patches_per_row) * p
    from_y = of_field[:, None, None] + column[None, :, None] + (variable * HW)[None, None, :]
    if FIELDS:
        from_h = from_y
        row_of_h = W
    else:
        from_h = patch[:, None, None] * (p * p * num_out) + column[None, :, None] * num_out + variable[None, None, :]
        row_of_h = p * num_out
    return first_row, from_y, from_h, row_of_h


@triton.jit
def ranks_within(members, GROUP: tl.constexpr):
    """Of each of these members, how many of them are below it minus how many are above."""
    ranks = ()  # mypy takes () for a length
    for k in tl.static_range(GROUP):
        rank = tl.zeros_like(members[k])
        for other in tl.static_range(GROUP):
            if other < k:
                rank -= sign_of(members[other] - members[k])
            if other > k:
                rank += sign_of(members[k] - members[other])
        ranks += (rank,)  # type: ignore[assignment]
    return ranks


@triton.jit
def crps_kernel(
    h, y, weight, code, numerator, denominator, L, patches_per_row, num_out, W, HW, pair_weight,
    M: tl.constexpr, GROUP: tl.constexpr, p: tl.constexpr, BLOCK: tl.constexpr, BROKEN: tl.constexpr,
    GRADIENT: tl.constexpr, FIELDS: tl.constexpr,
):  # fmt: skip
    """numerator = sum w·m·CRPS and denominator = sum w·m of one block of patches; code = 3·r + t of every member.

    m is 1 where y is not NaN, t = sign(x - y), r = members below minus members above x; the code of a missing target is
    0, of a NaN member BROKEN. GROUP members at a time are held in registers and compared with each other, then with
    every other member, read again from the cache. Everything in float32, whatever the types of h and y. Each number
    has one writer: the partial sums [B, blocks of patches, O] are added by the caller in a fixed order.
    Grid: blocks of patches, blocks of 16 variables, samples.
    """
    patch = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, p)
    variable = tl.program_id(1) * 16 + tl.arange(0, 16)
    sample = tl.program_id(2)
    used = (patch < L)[:, None, None] & (variable < num_out)[None, None, :] & (column < p)[None, :, None]
    # 64 bits for the start of a sample or member only: for every element they would double the registers.
    of_member = tl.cast(num_out, tl.int64) * HW
    y += sample * of_member
    h += sample * M * of_member
    code += sample * M * of_member
    first_row, from_y, from_h, row_of_h = places_of(patch, column, variable, patches_per_row, num_out, W, HW, p, FIELDS)
    weighted_crps = tl.zeros((BLOCK, p, 16), tl.float32)
    weight_sum = tl.zeros((BLOCK, p, 16), tl.float32)
    for i in range(p):
        truth = tl.load(y + from_y + i * W, mask=used, other=float("nan")).to(tl.float32)
        valid = truth == truth
        w = tl.load(weight + first_row + i, mask=patch < L, other=0.0)[:, None, None]
        for first in range(0, M, GROUP):
            # A member beyond the last one is NaN and neither above nor below any other.
            members = ()
            for k in tl.static_range(GROUP):
                here = h + (first + k) * of_member + from_h + i * row_of_h
                x = tl.load(here, mask=used & (first + k < M), other=float("nan")).to(tl.float32)
                members += (x,)  # type: ignore[assignment]
            ranks = ranks_within(members, GROUP)
            for other in range(M if M > GROUP else 0):
                if (other < first) | (other >= first + GROUP):
                    here = h + other * of_member + from_h + i * row_of_h
                    reread = tl.load(here, mask=used, other=float("nan")).to(tl.float32)
                    more = ()
                    for k in tl.static_range(GROUP):
                        more += (ranks[k] + sign_of(members[k] - reread),)  # type: ignore[assignment]
                    ranks = more
            for k in tl.static_range(GROUP):
                if first + k < M:
                    difference = members[k] - truth
                    side = sign_of(difference)
                    crps = difference * (side / M - pair_weight * ranks[k])
                    weighted_crps += tl.where(valid, w * crps, 0.0)
                    if GRADIENT:
                        number = tl.where(difference == difference, 3 * ranks[k] + side, BROKEN)
                        number = tl.where(valid, number, 0).to(code.dtype.element_ty)
                        tl.store(code + (first + k) * of_member + from_h + i * row_of_h, number, mask=used)
        weight_sum += tl.where(valid, w, 0.0)
    out = (sample * tl.num_programs(0) + tl.program_id(0)) * num_out + variable
    tl.store(numerator + out, tl.sum(tl.sum(weighted_crps, axis=0), axis=0), mask=variable < num_out)
    tl.store(denominator + out, tl.sum(tl.sum(weight_sum, axis=0), axis=0), mask=variable < num_out)


@triton.jit
def crps_gradient_kernel(
    code, weight, coefficient, dh, patches_per_row, num_out, W, HW, pair_weight,
    M: tl.constexpr, p: tl.constexpr, BLOCK: tl.constexpr, BROKEN: tl.constexpr, FIELDS: tl.constexpr,
):  # fmt: skip
    """dh = coefficient·w·(t/M - pair_weight·r) of one member, NaN where its code is BROKEN.

    Grid: blocks of elements of one member, samples × members.
    """
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    used = element < num_out * HW
    of_member = tl.program_id(1) * (tl.cast(num_out, tl.int64) * HW)
    sample = tl.program_id(1) // M
    if FIELDS:
        variable = element // HW
        row = element % HW // W
    else:
        variable = element % num_out
        pixel = element // num_out
        row = pixel // (p * p * patches_per_row) * p + pixel % (p * p) // p
    w = tl.load(weight + row, mask=used, other=0.0)
    scale = w * tl.load(coefficient + sample * num_out + variable, mask=used, other=0.0)
    number = tl.load(code + of_member + element, mask=used, other=0).to(tl.int32)
    # Of a - 1, a and a + 1, a a multiple of 3, a + 1 rounded down to a multiple of 3 is a; BROKEN's result is replaced.
    rank = (number + (3 * M + 1)) // 3 - M
    slope = (number - 3 * rank).to(tl.float32) / M - pair_weight * rank.to(tl.float32)
    gradient = tl.where(number == BROKEN, float("nan"), scale * slope)
    tl.store(dh + of_member + element, gradient.to(dh.dtype.element_ty), mask=used)
