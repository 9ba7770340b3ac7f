"""Sums over the cells of every forecast field, from which RMSE, MAE, bias and anomaly correlation follow, in one pass.

Dimensions: B forecasts · O variables · F = B·O fields · f fields of one block · H latitude rows · W longitude columns ·
h rows of one block · S sums of a field. README.md gives the formulas.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from climax_hpc.kernels.dispatch import use_triton

NAMES = ("area", "error", "magnitude", "square", "forecast_square", "truth_square", "product")
WITHOUT_CLIMATOLOGY = 4
# Some four float64 arrays of this size are in use at a time: together they stay in the second-level cache.
BLOCK_BYTES = 1 << 19


class VerificationSums(NamedTuple):
    """Sums over the valid cells of each field, float64, w the weight of a cell's row; `None` without climatology."""

    area_BO: Tensor
    """w: 0 where no cell is valid."""
    error_BO: Tensor
    """w·(forecast - truth)."""
    magnitude_BO: Tensor
    """w·|forecast - truth|."""
    square_BO: Tensor
    """w·(forecast - truth)²."""
    forecast_square_BO: Tensor | None
    """w·(forecast - climatology)²."""
    truth_square_BO: Tensor | None
    """w·(truth - climatology)²."""
    product_BO: Tensor | None
    """w·(forecast - climatology)·(truth - climatology)."""


def number_of_sums(climatology_BOHW: Tensor | None) -> int:
    """S: all of NAMES, or those that need no climatology."""
    return WITHOUT_CLIMATOLOGY if climatology_BOHW is None else len(NAMES)


def verification_sums(
    forecast_BOHW: Tensor, truth_BOHW: Tensor, climatology_BOHW: Tensor | None, weight_H: Tensor
) -> VerificationSums:
    """Weighted sums over the cells where truth and climatology are not NaN; a missing cell's forecast may be anything.

    Every sum is added up in float64 (on GPUs over float32 sums of at most 4096 cells). A NaN forecast of a valid cell
    makes its sums NaN.

    Raises:
        ValueError: fields of different shapes, or weights of another number of rows.
    """
    fields = {"truth": truth_BOHW, "climatology": forecast_BOHW if climatology_BOHW is None else climatology_BOHW}
    for name, field in fields.items():
        if field.shape != forecast_BOHW.shape:
            raise ValueError(f"forecast {tuple(forecast_BOHW.shape)} and {name} {tuple(field.shape)} differ in shape")
    if weight_H.shape != forecast_BOHW.shape[2:3]:
        raise ValueError(f"latitude weights have shape {tuple(weight_H.shape)}, the fields {truth_BOHW.shape[2]} rows")
    sums_SBO = _verification_sums(forecast_BOHW, truth_BOHW, climatology_BOHW, weight_H)
    missing = len(NAMES) - len(sums_SBO)
    return VerificationSums(*sums_SBO.unbind(), *[None] * missing)


@torch.library.custom_op("climax_hpc::verification_sums", mutates_args=())
def _verification_sums(
    forecast_BOHW: Tensor, truth_BOHW: Tensor, climatology_BOHW: Tensor | None, weight_H: Tensor
) -> Tensor:
    """sums_SBO in the order of NAMES."""
    fields = [t for t in (forecast_BOHW, truth_BOHW, climatology_BOHW) if t is not None]
    return _form(fields)(forecast_BOHW, truth_BOHW, climatology_BOHW, weight_H)


@_verification_sums.register_fake
def _(forecast_BOHW: Tensor, truth_BOHW: Tensor, climatology_BOHW: Tensor | None, weight_H: Tensor) -> Tensor:
    count = number_of_sums(climatology_BOHW)
    return forecast_BOHW.new_empty(count, *forecast_BOHW.shape[:2], dtype=torch.float64)


def _form(fields: list[Tensor]) -> Callable[..., Tensor]:
    """The form for the device and the widest type of these fields (`dispatch.py`)."""
    if use_triton(max(fields, key=lambda t: t.itemsize)):
        from climax_hpc.kernels.lat_weighted_loss.launch_triton import verification_sums_triton

        return verification_sums_triton
    return blockwise


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
