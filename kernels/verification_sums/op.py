"""Sums over the cells of every forecast field in one pass, for RMSE, MAE, bias and anomaly correlation.

Dimensions: B forecasts · O variables · H latitude rows · W longitude columns · S sums of a field. README.md gives the
formulas.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from climax_hpc.kernels.dispatch import use_triton
from climax_hpc.kernels.verification_sums import cpu
from climax_hpc.kernels.verification_sums.reference import NAMES, number_of_sums


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


def verification_sums(
    forecast_BOHW: Tensor, truth_BOHW: Tensor, climatology_BOHW: Tensor | None, weight_H: Tensor
) -> VerificationSums:
    """Weighted sums over the cells where truth and climatology are not NaN; other cells of the forecast are ignored.

    Sums are float64 (on GPUs over float32 sums of at most 4096 cells). A NaN forecast of a valid cell
    makes its sums NaN.

    Raises:
        ValueError: fields with different shapes, or weights with another number of rows.
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
        from climax_hpc.kernels.verification_sums.launch_triton import verification_sums_triton

        return verification_sums_triton
    return cpu.blockwise
