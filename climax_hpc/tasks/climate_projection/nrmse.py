"""ClimateBench's normalised root mean square errors, and their intervals by the block bootstrap over years.

Watson-Parris et al. 2022 (JAMES 14, e2021MS002954), section 3.3, over the projected years n = 1 … N (2080-2100), with x
the projection, y the mean of the target's ensemble members, and <x> = sum_ij cos(lat_i) x_ij / sum_ij cos(lat_i):

    NRMSE_spatial = sqrt( < (mean_n x - mean_n y)^2 > ) / |mean_n <y>|
    NRMSE_global  = sqrt( mean_n (<x> - <y>)^2 ) / |mean_n <y>|
    NRMSE_total   = NRMSE_spatial + 5 NRMSE_global

ClimateBench's targets are departures from the pre-industrial control, so that the divisor is the mean change; of
absolute fields the numbers mean something else.
Dimensions: N years · R resamples · H, W grid.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SCORES = ("spatial", "global", "total")
GLOBAL_WEIGHT = 5.0
_CHUNK = 64  # resamples whose mean maps are held at once


def nrmse(x_NHW: Array, y_NHW: Array, weight_H: Array) -> dict[str, float]:
    """The three scores [1] of a projection against the truth; `weight_H` in any unit."""
    one_1N = np.ones((1, len(y_NHW)))
    return {name: float(values_R[0]) for name, values_R in resampled_nrmse(x_NHW, y_NHW, weight_H, one_1N).items()}


def resampled_nrmse(x_NHW: Array, y_NHW: Array, weight_H: Array, draws_RN: Array) -> dict[str, Array]:
    """The three scores (R,) of draws that hold year n `draws_RN[r, n]` times.

    Raises:
        ValueError: a missing value; the scores are of whole fields.
    """
    if not (np.isfinite(x_NHW).all() and np.isfinite(y_NHW).all()):
        raise ValueError("projection or truth has missing values")
    share_RN = draws_RN / draws_RN.sum(axis=1, keepdims=True)
    weight_HW = np.broadcast_to((weight_H / (weight_H.sum() * x_NHW.shape[2]))[:, None], x_NHW.shape[1:])
    error_NHW = x_NHW - y_NHW
    mean_N = np.einsum("nhw,hw->n", y_NHW, weight_HW)
    change_R = np.abs(share_RN @ mean_N)
    error_N = np.einsum("nhw,hw->n", error_NHW, weight_HW)
    square_R = np.empty(len(draws_RN))
    for first in range(0, len(draws_RN), _CHUNK):
        some = slice(first, first + _CHUNK)
        maps_RP = share_RN[some] @ error_NHW.reshape(len(error_NHW), -1)
        square_R[some] = maps_RP**2 @ weight_HW.reshape(-1)
    with np.errstate(divide="ignore", invalid="ignore"):  # a change of exactly 0 makes the scores infinite
        spatial_R = np.sqrt(square_R) / change_R
        global_R = np.sqrt(share_RN @ error_N**2) / change_R
    return {"spatial": spatial_R, "global": global_R, "total": spatial_R + GLOBAL_WEIGHT * global_R}
