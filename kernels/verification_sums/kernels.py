"""Triton kernel of the sums of an evaluation: three fields read once, one program for each part of a field.

Dimensions: B forecasts · O variables · F = B·O fields · H latitude rows · W longitude columns · S sums of a field.
"""

import triton
import triton.language as tl


@triton.jit
def verification_kernel(
    forecast, truth, climatology, weight, sums, fields, parts, W, HW,
    BLOCK: tl.constexpr, TILES: tl.constexpr, CLIMATOLOGY: tl.constexpr,
):  # fmt: skip
    """Sums over the valid cells of one part of one field, in the order of `reference.NAMES`; float32.

    A cell is valid where truth and climatology are not NaN. Each number has one writer: sums [S, fields, parts] are
    added over the parts by the caller in a fixed order. Grid: fields, parts.
    """
    field = tl.program_id(0)
    part = tl.program_id(1)
    first = field.to(tl.int64) * HW
    forecast += first
    truth += first
    climatology += first
    area = tl.zeros((BLOCK,), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    magnitude = tl.zeros((BLOCK,), tl.float32)
    square = tl.zeros((BLOCK,), tl.float32)
    forecast_square = tl.zeros((BLOCK,), tl.float32)
    truth_square = tl.zeros((BLOCK,), tl.float32)
    product = tl.zeros((BLOCK,), tl.float32)
    for i in range(TILES):
        cell = (part * TILES + i) * BLOCK + tl.arange(0, BLOCK)
        y = tl.load(truth + cell, mask=cell < HW, other=float("nan")).to(tl.float32)
        f = tl.load(forecast + cell, mask=cell < HW, other=0.0).to(tl.float32)
        w = tl.load(weight + cell // W, mask=cell < HW, other=0.0)
        valid = y == y
        if CLIMATOLOGY:
            c = tl.load(climatology + cell, mask=cell < HW, other=float("nan")).to(tl.float32)
            valid = valid & (c == c)
            anomaly = tl.where(valid, f - c, 0.0)
            truth_anomaly = tl.where(valid, y - c, 0.0)
            forecast_square += w * anomaly * anomaly
            truth_square += w * truth_anomaly * truth_anomaly
            product += w * anomaly * truth_anomaly
        error = tl.where(valid, f - y, 0.0)
        area += tl.where(valid, w, 0.0)
        total += w * error
        magnitude += w * tl.abs(error)
        square += w * error * error
    out = sums + field * parts + part
    stride = fields * parts
    tl.store(out, tl.sum(area, axis=0))
    tl.store(out + stride, tl.sum(total, axis=0))
    tl.store(out + 2 * stride, tl.sum(magnitude, axis=0))
    tl.store(out + 3 * stride, tl.sum(square, axis=0))
    if CLIMATOLOGY:
        tl.store(out + 4 * stride, tl.sum(forecast_square, axis=0))
        tl.store(out + 5 * stride, tl.sum(truth_square, axis=0))
        tl.store(out + 6 * stride, tl.sum(product, axis=0))
