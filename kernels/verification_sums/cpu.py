"""The sums of an evaluation on a processor: over blocks that fit its cache, all in float64.

Dimensions: B forecasts · O variables · F = B·O fields · H latitude rows · W longitude columns · f fields of one block ·
h rows of one block · S sums of a field.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from climax_hpc.kernels.verification_sums.reference import number_of_sums

# Some four float64 arrays of this size are in use at a time: together they stay in the second-level cache.
BLOCK_BYTES = 1 << 19


def blockwise(forecast_BOHW: Tensor, truth_BOHW: Tensor, climatology_BOHW: Tensor | None, weight_H: Tensor) -> Tensor:
    """sums_SBO in PyTorch: over blocks of whole fields or of rows of one field that fit the cache, all in float64."""
    B, num_out, H, W = forecast_BOHW.shape
    count = number_of_sums(climatology_BOHW)
    sums_SF = forecast_BOHW.new_zeros(count, B * num_out, dtype=torch.float64)
    forecast_FHW, truth_FHW = forecast_BOHW.flatten(0, 1), truth_BOHW.flatten(0, 1)
    climatology_FHW = None if climatology_BOHW is None else climatology_BOHW.flatten(0, 1)
    weight_H, zero = weight_H.double(), sums_SF.new_zeros(())
    scratch = forecast_BOHW.new_empty(3, *_block_shape(B * num_out, H, W), W, dtype=torch.float64)
    for fs, hs in _blocks(B * num_out, H, W):
        error, anomaly, truth_anomaly = scratch[:, : fs.stop - fs.start, : hs.stop - hs.start]
        forecast, truth = forecast_FHW[fs, hs].double(), truth_FHW[fs, hs].double()
        differences = [torch.sub(forecast, truth, out=error)]
        if climatology_FHW is None:
            missing = truth.isnan()
        else:
            climatology = climatology_FHW[fs, hs].double()
            differences.append(torch.sub(forecast, climatology, out=anomaly))
            differences.append(torch.sub(truth, climatology, out=truth_anomaly))
            missing = truth_anomaly.isnan()  # where either is
        missing_fh = missing.sum(dim=-1)
        if missing_fh.any():
            for difference in differences:
                torch.where(missing, zero, difference, out=difference)  # vectorised, which masked_fill_ is not
        rows = [(W - missing_fh).double(), error.sum(dim=-1), error.abs().sum(dim=-1)]
        rows += [torch.linalg.vecdot(difference, difference) for difference in differences]
        if climatology_FHW is not None:
            rows.append(torch.linalg.vecdot(anomaly, truth_anomaly))
        sums_SF[:, fs] += (torch.stack(rows) * weight_H[hs]).sum(dim=-1)  # not `@`: its order depends on the batch
    return sums_SF.view(count, B, num_out)


def _block_shape(fields: int, H: int, W: int) -> tuple[int, int]:
    """Fields and rows of the largest block; more than one field only of whole fields."""
    rows = max(1, BLOCK_BYTES // (8 * W))
    return (min(fields, max(1, rows // H)), min(rows, H))


def _blocks(fields: int, H: int, W: int) -> Iterator[tuple[slice, slice]]:
    """Fields and rows of each block; the cut into rows, so every sum's order, depends on the grid alone."""
    most_fields, most_rows = _block_shape(fields, H, W)
    for first in range(0, fields, most_fields):
        for row in range(0, H, most_rows):
            yield slice(first, min(first + most_fields, fields)), slice(row, min(row + most_rows, H))
