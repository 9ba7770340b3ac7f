"""Interpolation from the model's sigma levels to pressure levels and to mean sea level; numpy only.

Legend: T time, K model levels (top first), P pressure levels, H latitude, W longitude; `lnp` is log pressure [ln Pa].
Points below the lowest model level are extrapolated, as in CMIP6 models that do not mask them: temperature with a lapse
rate of 6.5 K/km, height hydrostatically with that temperature, winds and humidity with the value of the lowest level.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GRAVITY = 9.80665  # m s-2, WMO: geopotential height = geopotential / g
GAS_CONSTANT = 287.04  # J kg-1 K-1, dry air; SPEEDY's own value
LAPSE_RATE = 0.0065  # K m-1, ICAO standard atmosphere
_LAPSE_EXPONENT = LAPSE_RATE * GAS_CONSTANT / GRAVITY  # T ~ p ** this in an atmosphere of constant lapse rate


def log_pressure(ps_THW: Array, sigma_K: Array) -> Array:
    """Log of pressure [ln Pa] (T, K, H, W) from surface pressure [Pa] and sigma."""
    return np.log(ps_THW)[:, None] + np.log(sigma_K)[None, :, None, None]


def _bracket(lnp_TKHW: Array, target: float) -> tuple[NDArray[np.int64], Array, Array]:
    """Index (T, 1, H, W) of the level just above the target, weight (T, H, W) of the one below, log-pressure step."""
    above = np.clip((lnp_TKHW < target).sum(axis=1) - 1, 0, lnp_TKHW.shape[1] - 2)[:, None]
    upper = np.take_along_axis(lnp_TKHW, above, 1)[:, 0]
    step = np.take_along_axis(lnp_TKHW, above + 1, 1)[:, 0] - upper
    return above, (target - upper) / step, step


def _pair(field_TKHW: Array, above: NDArray[np.int64]) -> tuple[Array, Array]:
    return np.take_along_axis(field_TKHW, above, 1)[:, 0], np.take_along_axis(field_TKHW, above + 1, 1)[:, 0]


def interpolate(field_TKHW: Array, lnp_TKHW: Array, plev_P: Array) -> Array:
    """Linear in log-pressure, constant beyond the top and bottom levels; (T, P, H, W)."""
    out = np.empty((field_TKHW.shape[0], len(plev_P), *field_TKHW.shape[2:]))
    for k, pressure in enumerate(plev_P):
        above, weight, _ = _bracket(lnp_TKHW, float(np.log(pressure)))
        upper, lower = _pair(field_TKHW, above)
        out[:, k] = upper + np.clip(weight, 0.0, 1.0) * (lower - upper)
    return out


def interpolate_temperature(ta_TKHW: Array, lnp_TKHW: Array, plev_P: Array) -> Array:
    """Temperature [K] (T, P, H, W): as `interpolate`, but with 6.5 K/km below the lowest level."""
    out = interpolate(ta_TKHW, lnp_TKHW, plev_P)
    bottom = lnp_TKHW[:, -1]
    for k, pressure in enumerate(plev_P):
        x = np.log(pressure)
        out[:, k] = np.where(x > bottom, ta_TKHW[:, -1] * np.exp(_LAPSE_EXPONENT * (x - bottom)), out[:, k])
    return out


def interpolate_height(zg_TKHW: Array, ta_TKHW: Array, lnp_TKHW: Array, plev_P: Array) -> Array:
    """Geopotential height [m] (T, P, H, W), hydrostatic with a temperature linear in log-pressure between levels.

    The term in weight·(1 - weight) is the curvature; without it the eight SPEEDY levels are off by up to 40 m.
    """
    out = np.empty((zg_TKHW.shape[0], len(plev_P), *zg_TKHW.shape[2:]))
    bottom = lnp_TKHW[:, -1]
    for k, pressure in enumerate(plev_P):
        x = float(np.log(pressure))
        above, weight, step = _bracket(lnp_TKHW, x)
        z_upper, z_lower = _pair(zg_TKHW, above)
        t_upper, t_lower = _pair(ta_TKHW, above)
        curvature = 0.5 * GAS_CONSTANT / GRAVITY * (t_lower - t_upper) * step * weight * (1 - weight)
        inside = z_upper + weight * (z_lower - z_upper) + curvature
        drop = ta_TKHW[:, -1] / LAPSE_RATE * np.expm1(_LAPSE_EXPONENT * (x - bottom))
        out[:, k] = np.where(x > bottom, zg_TKHW[:, -1] - drop, inside)
    return out


def sea_level_pressure(ps_THW: Array, ta_bottom_THW: Array, sigma_bottom: float, orog_HW: Array) -> Array:
    """Mean sea level pressure [Pa] (T, H, W), with the standard lapse rate from the surface to sea level."""
    t_surface = ta_bottom_THW * (1.0 / sigma_bottom) ** _LAPSE_EXPONENT
    return ps_THW * (1.0 + LAPSE_RATE * orog_HW / t_surface) ** (1.0 / _LAPSE_EXPONENT)
