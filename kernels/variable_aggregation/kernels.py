"""Triton kernels of the variable aggregation: pack, weights, values, and a backward that recomputes the weights.

Dimensions: V variables · VB = ceil(V/16) blocks of 16 variables · p patch edge · P = p·p pixels of a patch · Q = P+1
planes (the pixels and one availability plane, which turns M0 and S0 into one more pixel) · R rows (patches) of a chunk,
padded to whole blocks · N heads · HEAD head width · K = HEAD padded to a power of two >= 16 · D = N·HEAD.

Layouts in memory:
    packed   [VB, R, Q, 16]   pixels of 16 variables side by side, NaN -> 0; plane P: 1 where any pixel is valid, else 0
    S, S0    score maps of the weights kernel, times log2(e), so that the softmax is in powers of two (map_layouts.py)
    plain_S  [VB, N, Q, 16]   score maps as they are, float32
    M        [VB, N, Q, 16, K] value maps in the data type of the products
    a, ds    [VB, R, N, 16]   softmax weights, float16 beside 16-bit pixels, else float32, and score gradients
    scale    [rows, N]        float32: what the weights of the forward pass lack to add up to 1
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
MISSING = tl.constexpr(-1e30)
"""Score of a variable that is not available: finite, for the difference of two infinite ones would be NaN."""


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
def scores_of_lanes(
    packed, S, S0, row, R, step,
    P: tl.constexpr, PLANES: tl.constexpr, LANES: tl.constexpr, HEADS: tl.constexpr, TERMS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Scores [rows, HEADS·LANES], in powers of two, of LANES neighbouring variables; MISSING where not available.

    One product makes the scores of all heads and lanes: the map of a lane is 0 in the rows of the other lanes. The
    TERMS parts of a map, high and low, add up to more digits than the data type has.
    """
    COLUMNS: tl.constexpr = HEADS * LANES
    DEPTH: tl.constexpr = PLANES * LANES
    GROUPS: tl.constexpr = P // PLANES
    column = tl.arange(0, COLUMNS)
    deep = tl.arange(0, DEPTH)
    STEPS: tl.constexpr = 16 // LANES
    patches = packed + (step // STEPS * R + row)[:, None] * ((P + 1) * 16) + step % STEPS * LANES
    pixels = patches + ((deep // LANES) * 16 + deep % LANES)[None, :]
    maps = S + step * (P * LANES * TERMS * COLUMNS) + deep[:, None] * COLUMNS + column[None, :]
    constant = tl.load(S0 + step * COLUMNS + column)[None, :]
    score = tl.broadcast_to(constant, (row.shape[0], COLUMNS))
    for group in range(GROUPS):
        pixel = tl.load(pixels + group * (PLANES * 16))
        for term in tl.static_range(TERMS):
            of_term = tl.load(maps + (group * TERMS + term) * (DEPTH * COLUMNS))
            score = tl.dot(pixel, of_term, score, input_precision=PRECISION)
    available = tl.load(patches + (P * 16 + tl.arange(0, LANES))[None, :]).to(tl.float32)
    return score + for_every_head(tl.where(available > 0, 0.0, MISSING), HEADS)


@triton.jit
def for_every_head(narrow, HEADS: tl.constexpr):
    """[rows, lanes] -> [rows, heads·lanes], the same numbers for each head."""
    rows: tl.constexpr = narrow.shape[0]
    LANES: tl.constexpr = narrow.shape[1]
    return tl.reshape(tl.broadcast_to(narrow[:, None, :], (rows, HEADS, LANES)), (rows, HEADS * LANES))


@triton.jit
def weights_kernel(
    packed, S, S0, lse, scale, a, rows, R, VB,
    N: tl.constexpr, P: tl.constexpr, BLOCK: tl.constexpr, PLANES: tl.constexpr, LANES: tl.constexpr,
    HEADS: tl.constexpr, TERMS: tl.constexpr, PRECISION: tl.constexpr, KNOWN: tl.constexpr,
):  # fmt: skip
    """Softmax weights of the scores s = S·x + S0. Where lse is KNOWN: a = exp(s - lse).

    Else a = exp(s - max s), lse and scale = 1 / sum(a), in two passes over the variables. Each lane of each head has a
    maximum and a sum of its own until all variables have passed. Grid: blocks of heads (fastest), row blocks.
    """
    COLUMNS: tl.constexpr = HEADS * LANES
    column = tl.arange(0, COLUMNS)
    n = tl.program_id(0) * HEADS + column // LANES
    head = tl.program_id(0) * HEADS + tl.arange(0, HEADS)
    row = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    at_head = row[:, None] * N + head[None, :]
    inside = (row < rows)[:, None] & (head < N)[None, :]
    STEPS: tl.constexpr = 16 // LANES
    steps = VB * STEPS
    S += tl.program_id(0) * steps * (P * LANES * TERMS * COLUMNS)
    S0 += tl.program_id(0) * steps * COLUMNS
    if KNOWN:
        shift = tl.load(lse + at_head, mask=inside, other=0.0) * LOG2E
    else:
        top = tl.full((BLOCK, COLUMNS), MISSING, tl.float32)
        for step in range(steps):
            score = scores_of_lanes(packed, S, S0, row, R, step, P, PLANES, LANES, HEADS, TERMS, PRECISION)
            top = tl.maximum(top, score)
        shift = tl.max(tl.reshape(top, (BLOCK, HEADS, LANES)), axis=2)
    shift = tl.where(shift > MISSING / 2, shift, 0.0)  # weights are 0 where nothing is available
    shift_of_lanes = tl.reshape(tl.broadcast_to(shift[:, :, None], (BLOCK, HEADS, LANES)), (BLOCK, COLUMNS))
    total = tl.zeros((BLOCK, COLUMNS), tl.float32)
    for step in range(steps):
        score = scores_of_lanes(packed, S, S0, row, R, step, P, PLANES, LANES, HEADS, TERMS, PRECISION)
        weight = tl.exp2(score - shift_of_lanes)
        total += weight
        of_step = a + (step // STEPS * R + row)[:, None] * (N * 16) + step % STEPS * LANES
        target = of_step + (n * 16 + column % LANES)[None, :]
        tl.store(target, weight.to(a.dtype.element_ty), mask=(n < N)[None, :])
    if not KNOWN:
        sum_of_head = tl.sum(tl.reshape(total, (BLOCK, HEADS, LANES)), axis=2)
        tl.store(lse + at_head, (shift + tl.log2(sum_of_head)) * LN2, mask=inside)  # -inf where nothing is available
        tl.store(scale + at_head, 1 / tl.where(sum_of_head > 0, sum_of_head, 1.0), mask=inside)


@triton.jit
def values_kernel(
    packed, a, scale, M, bias, o, rows, R, VB,
    N: tl.constexpr, HEAD: tl.constexpr, K: tl.constexpr, P: tl.constexpr,
    BLOCK: tl.constexpr, PLANES: tl.constexpr, HEADS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """o = scale sum_v a_v (M_v x_v + M0_v) + bias of HEADS heads, which share the pixels.

    The availability plane comes first, in a short loop of its own: its product with the weights is the weights. The
    others follow in one loop over blocks and groups of PLANES planes, so that loads run ahead from first to last.
    Grid: groups of heads (fastest, so that neighbours share the rows' pixels in cache), row blocks.
    """
    GROUPS: tl.constexpr = P // PLANES
    MAP: tl.constexpr = (P + 1) * 16 * K
    n = tl.program_id(0) * HEADS
    row = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, 16)
    column = tl.arange(0, PLANES * 16)
    k = tl.arange(0, K)
    M += n * MAP + k[None, :]
    a += n * 16 + lane[None, :]
    acc = ()
    for _ in tl.static_range(HEADS):
        acc += (tl.zeros((BLOCK, K), tl.float32),)  # type: ignore[assignment]
    for block in tl.range(VB, num_stages=1):  # a pipeline for so few steps costs the next loop's registers
        weights = a + (block * R + row)[:, None] * (N * 16)
        constants = M + block * (N * MAP) + (P * 16 + lane)[:, None] * K
        added = ()
        for head in tl.static_range(HEADS):
            weight = tl.load(weights + head * 16).to(M.dtype.element_ty)
            constant = tl.load(constants + head * MAP)
            added += (tl.dot(weight, constant, acc[head], input_precision=PRECISION),)  # type: ignore[assignment]
        acc = added
    for step in range(VB * GROUPS):
        block = step // GROUPS
        at_group = (step % GROUPS) * (PLANES * 16) + column
        pixel = tl.load(packed + (block * R + row)[:, None] * ((P + 1) * 16) + at_group[None, :]).to(tl.float32)
        weights = a + (block * R + row)[:, None] * (N * 16)
        values = M + block * (N * MAP) + at_group[:, None] * K
        added = ()
        for head in tl.static_range(HEADS):
            weight = tl.load(weights + head * 16).to(tl.float32)
            u = (for_every_plane(weight, PLANES) * pixel).to(M.dtype.element_ty)
            value = tl.load(values + head * MAP)
            added += (tl.dot(u, value, acc[head], input_precision=PRECISION),)  # type: ignore[assignment]
        acc = added
    inside = (row < rows)[:, None] & (k < HEAD)[None, :]
    for head in tl.static_range(HEADS):
        value_bias = tl.load(bias + (n + head) * HEAD + k, mask=k < HEAD, other=0.0).to(tl.float32)
        of_head = tl.load(scale + row * N + n + head, mask=row < rows, other=0.0)
        out = acc[head] * of_head[:, None] + value_bias[None, :]
        target = o + row[:, None] * (N * HEAD) + ((n + head) * HEAD + k)[None, :]
        tl.store(target, out.to(o.dtype.element_ty), mask=inside)


@triton.jit
def dweights_kernel(
    packed, M, bias, o, do, a, ds, rows, R, VB,
    N: tl.constexpr, HEAD: tl.constexpr, K: tl.constexpr, P: tl.constexpr,
    BLOCK: tl.constexpr, PLANES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of weights and scores: ds = a (do·(M x + M0) - do·(o - bias)). Grid: heads, row blocks."""
    MAP: tl.constexpr = (P + 1) * 16 * K
    n = tl.program_id(0)
    row = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, 16)
    column = tl.arange(0, PLANES * 16)
    k = tl.arange(0, K)
    at = row[:, None] * (N * HEAD) + n * HEAD + k[None, :]
    used = (row < rows)[:, None] & (k < HEAD)[None, :]
    grad = tl.load(do + at, mask=used, other=0.0)
    value_bias = tl.load(bias + n * HEAD + k, mask=k < HEAD, other=0.0).to(tl.float32)
    centred = tl.load(o + at, mask=used, other=0.0).to(tl.float32) - value_bias[None, :]
    delta = tl.sum(tl.where(used, grad.to(tl.float32) * centred, 0.0), axis=1)
    for block in range(VB):
        pixels = packed + (block * R + row)[:, None] * ((P + 1) * 16)
        values = M + (block * N + n) * MAP + k[:, None]
        wide = tl.zeros((BLOCK, PLANES * 16), tl.float32)
        for group in range(P // PLANES):
            at_group = group * (PLANES * 16) + column
            pixel = tl.load(pixels + at_group[None, :]).to(tl.float32)
            wide += pixel * tl.dot(grad, tl.load(values + at_group[None, :] * K), input_precision=PRECISION)
        da = sum_of_planes(wide, PLANES)
        da += tl.dot(grad, tl.load(values + (P * 16 + lane)[None, :] * K), input_precision=PRECISION)
        at_weight = (block * R + row)[:, None] * (N * 16) + n * 16 + lane[None, :]
        weight = tl.load(a + at_weight).to(tl.float32)
        tl.store(ds + at_weight, (weight * (da - delta[:, None])).to(ds.dtype.element_ty))


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
        at = (block * R + row)[:, None] * (N * 16) + n * 16
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
    a, ds, plain_S, M, do, dpacked, rows, R, VB, Q,
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
        map_column = (block * N + n) * (Q * 16) + plane_column
        values = tl.load(M + map_column[None, :] * K + k[:, None])
        at = (block * R + row)[:, None] * (N * 16) + n * 16 + (column % 16)[None, :]
        acc += tl.load(a + at).to(tl.float32) * tl.dot(grad, values, input_precision=PRECISION)
        acc += tl.load(ds + at).to(tl.float32) * tl.load(plain_S + map_column)[None, :]
    target = dpacked + (block * R + row)[:, None] * (Q * 16) + plane_column[None, :]
    tl.store(target, acc.to(dpacked.dtype.element_ty))
