"""Triton kernels of the variable aggregation: pack, forward, and a backward that recomputes the softmax.

Dimensions: V variables · VB = ceil(V/16) blocks of 16 variables · p patch edge · P = p·p pixels of a patch · Q = P+1
planes (the pixels and one availability plane, which turns M0 and S0 into one more pixel) · R rows (patches) of a chunk,
padded to whole blocks · N heads · HEAD head width · K = HEAD padded to a power of two >= 16 · D = N·HEAD.

Layouts in memory:
    packed   [VB, R, Q, 16]   pixels of 16 variables side by side, NaN -> 0; plane P: 1 where any pixel is valid, else 0
    S        [N, VB, Q, 16]   float32, score maps times log2(e), so that the softmax is in powers of two
    M        [N, VB, Q, 16, K] value maps in the data type of the products
    a, ds    [VB, N, R, 16]   softmax weights and score gradients, scratch of the backward pass
    lse      [rows, N]        natural log of the sum of exp(score), float32; -inf where a row has no available variable
    o, do    [rows, D]

Rows past `rows` exist in the packed scratch only (all unavailable); o, do and lse are masked. Each number has one
writer and every sum one order: no atomics. Operands are widened to float32 right after each load, and narrowed only as
operands of a matrix product, whose accumulator is float32.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def image_pointers(image, row, column, variable, L, patches_per_row, V, W, HW, p: tl.constexpr):
    """Pointers [rows, p, 16] to one pixel row of each patch; 64-bit only where the batch index enters."""
    patch = row % L
    top_left = (patch // patches_per_row) * (p * W) + (patch % patches_per_row) * p
    sample = (row // L).to(tl.int64) * V * HW
    return image + (sample + top_left)[:, None, None] + column[None, :, None] + (variable * HW)[None, None, :]


@triton.jit
def pack_kernel(
    x, packed, first_row, rows, R, L, patches_per_row, V, W, HW,
    p: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Image -> packed planes of rows first_row … first_row+rows-1. Grid: row blocks, variable blocks."""
    Q: tl.constexpr = p * p + 1
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, p)
    lane = tl.arange(0, 16)
    variable = tl.program_id(1) * 16 + lane
    source = image_pointers(x, first_row + row, column, variable, L, patches_per_row, V, W, HW, p)
    inside = (row < rows)[:, None, None] & (variable < V)[None, None, :] & (column < p)[None, :, None]
    target = packed + (tl.program_id(1) * R + row)[:, None, None] * (Q * 16) + lane[None, None, :]
    available = tl.zeros((BLOCK, 16), tl.int32)
    for i in range(p):
        pixel = tl.load(source + i * W, mask=inside, other=float("nan")).to(tl.float32)
        valid = pixel == pixel
        available = tl.maximum(available, tl.max(valid.to(tl.int32), axis=1))
        clean = tl.where(valid, pixel, 0.0).to(packed.dtype.element_ty)
        tl.store(target + (i * p + column)[None, :, None] * 16, clean)
    plane = packed + (tl.program_id(1) * R + row)[:, None] * (Q * 16) + (Q - 1) * 16 + lane[None, :]
    tl.store(plane, available.to(tl.float32).to(packed.dtype.element_ty))


@triton.jit
def unpack_kernel(
    x, dpacked, dx, first_row, rows, R, L, patches_per_row, V, W, HW,
    p: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Packed gradient -> gradient of the image, exactly 0 at missing pixels. Grid: row blocks, variable blocks."""
    Q: tl.constexpr = p * p + 1
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, p)
    lane = tl.arange(0, 16)
    variable = tl.program_id(1) * 16 + lane
    pixels = image_pointers(x, first_row + row, column, variable, L, patches_per_row, V, W, HW, p)
    targets = image_pointers(dx, first_row + row, column, variable, L, patches_per_row, V, W, HW, p)
    inside = (row < rows)[:, None, None] & (variable < V)[None, None, :] & (column < p)[None, :, None]
    source = dpacked + (tl.program_id(1) * R + row)[:, None, None] * (Q * 16) + lane[None, None, :]
    for i in range(p):
        pixel = tl.load(pixels + i * W, mask=inside, other=float("nan")).to(tl.float32)
        gradient = tl.load(source + (i * p + column)[None, :, None] * 16).to(tl.float32)
        gradient = tl.where(pixel == pixel, gradient, 0.0)
        tl.store(targets + i * W, gradient.to(dx.dtype.element_ty), mask=inside)


@triton.jit
def sum_of_planes(wide, PLANES: tl.constexpr):
    """[rows, planes·16] -> [rows, 16]."""
    if PLANES == 1:
        return wide
    else:
        return tl.sum(tl.reshape(wide, (wide.shape[0], PLANES, 16)), axis=1)


@triton.jit
def for_every_plane(narrow, PLANES: tl.constexpr):
    """[rows, 16] -> [rows, planes·16], the same 16 numbers in each plane."""
    rows: tl.constexpr = narrow.shape[0]
    if PLANES == 1:
        return narrow
    else:
        return tl.reshape(tl.broadcast_to(narrow[:, None, :], (rows, PLANES, 16)), (rows, PLANES * 16))


@triton.jit
def forward_kernel(
    packed, S, M, bias, o, lse, rows, R, VB, Q,
    N: tl.constexpr, HEAD: tl.constexpr, K: tl.constexpr,
    BLOCK: tl.constexpr, PLANES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """o = sum_v softmax_v(s)_v (M_v x_v + M0_v) + bias, s = S·x + S0: online softmax over variable blocks.

    PLANES planes are taken at a time, so that a row's loads fill cache lines and a product is deep. PLANES divides the
    number of pixels; the availability plane is taken last, by itself: its product with the weights is the weights.
    Grid: heads (fastest, so that neighbours share the rows' pixels in cache), row blocks.
    """
    n = tl.program_id(0)
    row = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, 16)
    column = tl.arange(0, PLANES * 16)
    k = tl.arange(0, K)
    groups = (Q - 1) // PLANES if PLANES > 1 else Q
    last = (Q - 1) * 16
    S += n * VB * (Q * 16)
    M += n * VB * (Q * 16 * K)
    top = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    acc = tl.zeros((BLOCK, K), tl.float32)
    for block in range(VB):
        patches = packed + (block * R + row)[:, None] * (Q * 16)
        pixels = patches + column[None, :]
        scores = S + block * (Q * 16) + column
        wide = tl.zeros((BLOCK, PLANES * 16), tl.float32)
        for group in range(groups):
            pixel = tl.load(pixels + group * (PLANES * 16)).to(tl.float32)
            wide += pixel * tl.load(scores + group * (PLANES * 16))[None, :]
        score = sum_of_planes(wide, PLANES)
        if PLANES > 1:
            score += tl.load(S + block * (Q * 16) + last + lane)[None, :]
        available = tl.load(patches + last + lane[None, :]).to(tl.float32) > 0
        score = tl.where(available, score, float("-inf"))
        new_top = tl.maximum(top, tl.max(score, axis=1))
        shift = tl.where(new_top == float("-inf"), 0.0, new_top)  # -inf - -inf would be NaN
        weight = tl.exp2(score - shift[:, None])
        decay = tl.exp2(top - shift)
        top = new_top
        total = total * decay + tl.sum(weight, axis=1)
        acc = acc * decay[:, None]
        values = M + block * (Q * 16 * K) + k[None, :]
        of_planes = for_every_plane(weight, PLANES)
        for group in range(groups):
            u = (of_planes * tl.load(pixels + group * (PLANES * 16)).to(tl.float32)).to(M.dtype.element_ty)
            value = tl.load(values + group * (PLANES * 16 * K) + column[:, None] * K)
            acc = tl.dot(u, value, acc, input_precision=PRECISION)
        if PLANES > 1:
            constant = tl.load(values + (last + lane)[:, None] * K)
            acc = tl.dot(weight.to(M.dtype.element_ty), constant, acc, input_precision=PRECISION)
    nothing = total == 0
    total = tl.where(nothing, 1.0, total)
    inside = row < rows
    tl.store(lse + row * N + n, tl.where(nothing, float("-inf"), (top + tl.log2(total)) * LN2), mask=inside)
    out = acc / total[:, None] + tl.load(bias + n * HEAD + k, mask=k < HEAD, other=0.0).to(tl.float32)[None, :]
    target = o + row[:, None] * (N * HEAD) + n * HEAD + k[None, :]
    tl.store(target, out.to(o.dtype.element_ty), mask=inside[:, None] & (k < HEAD)[None, :])


@triton.jit
def dscore_kernel(
    packed, S, M, bias, o, lse, do, a, ds, rows, R, VB, Q,
    N: tl.constexpr, HEAD: tl.constexpr, K: tl.constexpr,
    BLOCK: tl.constexpr, PLANES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Weights a = exp(s - lse) again, and ds = a (do·(M x + M0) - do·(o - bias)). Grid: heads, row blocks."""
    n = tl.program_id(0)
    row = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, 16)
    column = tl.arange(0, PLANES * 16)
    k = tl.arange(0, K)
    groups = (Q - 1) // PLANES if PLANES > 1 else Q
    last = (Q - 1) * 16
    inside = row < rows
    at = row[:, None] * (N * HEAD) + n * HEAD + k[None, :]
    used = inside[:, None] & (k < HEAD)[None, :]
    grad = tl.load(do + at, mask=used, other=0.0)
    value_bias = tl.load(bias + n * HEAD + k, mask=k < HEAD, other=0.0).to(tl.float32)
    centred = tl.load(o + at, mask=used, other=0.0).to(tl.float32) - value_bias[None, :]
    delta = tl.sum(tl.where(used, grad.to(tl.float32) * centred, 0.0), axis=1)
    log_total = tl.load(lse + row * N + n, mask=inside, other=float("-inf")) * LOG2E
    S += n * VB * (Q * 16)
    M += n * VB * (Q * 16 * K)
    for block in range(VB):
        patches = packed + (block * R + row)[:, None] * (Q * 16)
        scores = S + block * (Q * 16)
        values = M + block * (Q * 16 * K) + k[:, None]
        wide = tl.zeros((BLOCK, PLANES * 16), tl.float32)
        wide_da = tl.zeros((BLOCK, PLANES * 16), tl.float32)
        for group in range(groups):
            at_group = group * (PLANES * 16) + column
            pixel = tl.load(patches + at_group[None, :]).to(tl.float32)
            wide += pixel * tl.load(scores + at_group)[None, :]
            wide_da += pixel * tl.dot(grad, tl.load(values + at_group[None, :] * K), input_precision=PRECISION)
        score = sum_of_planes(wide, PLANES)
        da = sum_of_planes(wide_da, PLANES)
        if PLANES > 1:
            score += tl.load(scores + last + lane)[None, :]
            da += tl.dot(grad, tl.load(values + (last + lane)[None, :] * K), input_precision=PRECISION)
        available = tl.load(patches + last + lane[None, :]).to(tl.float32) > 0
        weight = tl.where(available, tl.exp2(score - log_total[:, None]), 0.0)
        target = ((block * N + n) * R + row)[:, None] * 16 + lane[None, :]
        tl.store(a + target, weight.to(a.dtype.element_ty))
        tl.store(ds + target, (weight * (da - delta[:, None])).to(ds.dtype.element_ty))


@triton.jit
def dmaps_kernel(
    packed, a, ds, do, dM, dS, rows, R, VB, Q, rows_per_part,
    N: tl.constexpr, HEAD: tl.constexpr, K: tl.constexpr,
    BLOCK: tl.constexpr, PLANES: tl.constexpr, PRECISION: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """Partial sums over one part of the rows: dM = sum_r (a x)ᵀ do, dS = sum_r ds x; added to the target if `ADD`.

    dS needs only the products of a variable with itself: the matrix product x ᵀ ds has them on its diagonals. It costs
    16/K of dM's and reads nothing more than ds. Grid: plane groups of variable blocks, heads, parts.
    dM [parts, N, VB, Q, 16, K], dS [parts, N, VB, Q, 16], float32.
    """
    groups = tl.cdiv(Q, PLANES)
    block = tl.program_id(0) // groups
    n = tl.program_id(1)
    part = tl.program_id(2)
    column = tl.arange(0, PLANES * 16)
    plane_column = (tl.program_id(0) % groups) * (PLANES * 16) + column
    in_planes = plane_column < Q * 16
    lane = tl.arange(0, 16)
    k = tl.arange(0, K)
    acc_M = tl.zeros((PLANES * 16, K), tl.float32)
    acc_S = tl.zeros((PLANES * 16, 16), tl.float32)
    for start in range(part * rows_per_part, (part + 1) * rows_per_part, BLOCK):
        row = start + tl.arange(0, BLOCK)
        pixels = packed + (block * R + row)[:, None] * (Q * 16) + plane_column[None, :]
        pixel = tl.load(pixels, mask=(row < R)[:, None] & in_planes[None, :], other=0.0)
        at = ((block * N + n) * R + row)[:, None] * 16
        weight = tl.load(a + at + (column % 16)[None, :], mask=(row < R)[:, None], other=0.0)
        used = (row < rows)[:, None] & (k < HEAD)[None, :]
        grad = tl.load(do + row[:, None] * (N * HEAD) + n * HEAD + k[None, :], mask=used, other=0.0)
        dscore = tl.load(ds + at + lane[None, :], mask=(row < R)[:, None], other=0.0)
        u = (weight.to(tl.float32) * pixel.to(tl.float32)).to(grad.dtype)
        acc_M = tl.dot(tl.trans(u), grad, acc_M, input_precision=PRECISION)
        acc_S = tl.dot(tl.trans(pixel), dscore, acc_S, input_precision=PRECISION)
    sum_S = tl.sum(tl.where((column % 16)[:, None] == lane[None, :], acc_S, 0.0), axis=1)
    target = ((part * N + n) * VB + block) * (Q * 16) + plane_column
    at_M = target[:, None] * K + k[None, :]
    if ADD:
        sum_S += tl.load(dS + target, mask=in_planes, other=0.0)
        acc_M += tl.load(dM + at_M, mask=in_planes[:, None], other=0.0)
    tl.store(dS + target, sum_S, mask=in_planes)
    tl.store(dM + at_M, acc_M, mask=in_planes[:, None])


@triton.jit
def dx_kernel(
    a, ds, S, M, do, dpacked, rows, R, VB, Q,
    N: tl.constexpr, HEAD: tl.constexpr, K: tl.constexpr,
    BLOCK: tl.constexpr, PLANES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dx = sum_n a (do·M) + ds S, packed; the availability plane is left out. Grid: groups of planes, row blocks."""
    groups = (Q - 1) // PLANES
    block = tl.program_id(0) // groups
    row = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, PLANES * 16)
    plane_column = (tl.program_id(0) % groups) * (PLANES * 16) + column
    k = tl.arange(0, K)
    acc = tl.zeros((BLOCK, PLANES * 16), tl.float32)
    for n in range(N):
        used = (row < rows)[:, None] & (k < HEAD)[None, :]
        grad = tl.load(do + row[:, None] * (N * HEAD) + n * HEAD + k[None, :], mask=used, other=0.0)
        map_column = (n * VB + block) * (Q * 16) + plane_column
        values = tl.load(M + map_column[None, :] * K + k[:, None])
        at = ((block * N + n) * R + row)[:, None] * 16 + (column % 16)[None, :]
        acc += tl.load(a + at).to(tl.float32) * tl.dot(grad, values, input_precision=PRECISION)
        acc += tl.load(ds + at).to(tl.float32) * (tl.load(S + map_column) * LN2)[None, :]
    target = dpacked + (block * R + row)[:, None] * (Q * 16) + plane_column[None, :]
    tl.store(target, acc.to(dpacked.dtype.element_ty))
