"""A toy climate with known laws: emissions -> forcing -> two-layer energy balance -> maps of yearly means.

Forcing [W m-2] of greenhouse gases, with E the cumulative CO2 emissions [Gt] and M the methane [ppb]:
    CO2  5.35 ln(1 + 0.45 E / (7.82 · 278))      45 % stays airborne, 7.82 Gt CO2 make 1 ppm
    CH4  0.036 (sqrt(M) - sqrt(722))             dM/dt = emissions / 2.75 Tg ppb-1 - (M - 722) / 9.1 yr
(logarithm and root: Myhre et al. 1998; shares: Friedlingstein et al. 2022; natural emissions keep 722 ppb), and of
aerosols, linear in the total emissions:
    SO2  -1.0 at 110 Tg yr-1, BC  +0.3 at 8 Tg yr-1 (about the values of IPCC AR6, ch. 7).
Each forcing F drives a surface layer T and a deep ocean D (Geoffroy et al. 2013, J. Climate 26, 1841-1857; the means of
their CMIP5 models: C = 7.3 and 106 W yr m-2 K-1, lambda = 1.13 and gamma = 0.73 W m-2 K-1):
    C dT/dt = F - lambda T - gamma (T - D)        C_deep dD/dt = gamma (T - D)
which is linear, so greenhouse gases and aerosols are integrated separately and their warmings get separate patterns.
The maps (`response`) are invented, but have the sign that models agree on.

Dimensions: Y years · H, W grid.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from climax_hpc.fields.grid import Grid

Array = NDArray[np.float64]

_CO2_PPM, _GT_PER_PPM, _AIRBORNE = 278.0, 7.82, 0.45
_CH4_PPB, _TG_PER_PPB, _CH4_YEARS = 722.0, 2.75, 9.1
_SO2_FORCING, _BC_FORCING = -1.0 / 110.0, 0.3 / 8.0  # W m-2 per Tg yr-1
_NEAR_DEG = 15.0  # standard deviation of the spread of aerosols by winds
_NEAR = 0.6  # K per W m-2: regional warming by regional forcing, about the transient response of the globe
_HEAT, _HEAT_DEEP, _FEEDBACK, _EXCHANGE = 7.3, 106.0, 1.13, 0.73
SECONDS_PER_YEAR = 365 * 86400.0
_EARTH_RADIUS = 6.371e6  # m


@dataclass(frozen=True, kw_only=True)
class Emissions:
    """Anthropogenic emissions in each year of a simulation."""

    co2_Y: Array
    """Gt CO2 yr-1."""
    ch4_Y: Array
    """Gt CH4 yr-1, anthropogenic."""
    so2_YHW: Array
    """kg m-2 s-1."""
    bc_YHW: Array
    """kg m-2 s-1."""


def cell_area(grid: Grid) -> Array:
    """Area (H, W) of the cells [m²]."""
    sines_H2 = np.sin(np.deg2rad(grid.lat_bnds))
    widths_W = np.deg2rad(grid.lon_bnds[:, 1] - grid.lon_bnds[:, 0])
    return _EARTH_RADIUS**2 * (sines_H2[:, 1] - sines_H2[:, 0])[:, None] * widths_W


def global_total(rate_YHW: Array, grid: Grid) -> Array:
    """Global emissions (Y,) [Tg yr-1] of a flux [kg m-2 s-1]."""
    return np.einsum("yhw,hw->y", rate_YHW, cell_area(grid)) * SECONDS_PER_YEAR * 1e-9


def greenhouse_forcing(emissions: Emissions) -> Array:
    """Forcing (Y,) by CO2 and CH4 [W m-2]."""
    ppm_Y = _AIRBORNE * np.cumsum(emissions.co2_Y) / _GT_PER_PPM
    decay = np.exp(-1 / _CH4_YEARS)
    ppb, excess_Y = 0.0, np.empty(len(emissions.ch4_Y))
    for year, source in enumerate(1e3 * emissions.ch4_Y / _TG_PER_PPB):
        ppb = decay * ppb + (1 - decay) * _CH4_YEARS * source
        excess_Y[year] = ppb
    return 5.35 * np.log1p(ppm_Y / _CO2_PPM) + 0.036 * (np.sqrt(_CH4_PPB + excess_Y) - np.sqrt(_CH4_PPB))


def aerosol_forcing(emissions: Emissions, grid: Grid) -> Array:
    """Forcing (Y,) by sulphur dioxide and black carbon [W m-2]."""
    return _SO2_FORCING * global_total(emissions.so2_YHW, grid) + _BC_FORCING * global_total(emissions.bc_YHW, grid)


def warming(forcing_Y: Array) -> Array:
    """Surface warming (Y,) [K] at the end of each year, from equilibrium; exact for forcing constant within years."""
    rates = np.array(
        [[-(_FEEDBACK + _EXCHANGE) / _HEAT, _EXCHANGE / _HEAT], [_EXCHANGE / _HEAT_DEEP, -_EXCHANGE / _HEAT_DEEP]]
    )
    speeds, modes = np.linalg.eig(rates)
    step = modes @ np.diag(np.exp(speeds)) @ np.linalg.inv(modes)
    state, warming_Y = np.zeros(2), np.empty(len(forcing_Y))
    for year, forcing in enumerate(forcing_Y):
        balance = np.full(2, forcing / _FEEDBACK)  # in a steady state both layers warm equally
        state = balance + step @ (state - balance)
        warming_Y[year] = state[0]
    return warming_Y


def land_fraction(grid: Grid) -> Array:
    """Invented smooth continents (H, W), 0 to 1: three northern, two southern, one around the south pole."""
    centres = ((50, 260, 22, 30), (55, 60, 20, 55), (35, 100, 18, 35), (-15, 300, 22, 16), (5, 20, 24, 18))
    lat_HW, lon_HW = np.meshgrid(grid.lat, grid.lon, indexing="ij")
    land_HW = np.clip((-lat_HW - 68) / 8, 0, 1)
    for lat, lon, height, width in centres:
        east_HW = (lon_HW - lon + 180) % 360 - 180
        land_HW = np.maximum(land_HW, np.exp(-(((lat_HW - lat) / height) ** 4) - (east_HW / width) ** 4))
    return land_HW


def smoothed(field: Array, grid: Grid, degrees: float) -> Array:
    """Fields (…, H, W) smoothed by a Gaussian of this standard deviation in latitude and (periodic) longitude."""
    north_HH = grid.lat[:, None] - grid.lat
    east_WW = (grid.lon[:, None] - grid.lon + 180) % 360 - 180
    rows_HH, columns_WW = (np.exp(-0.5 * (away / degrees) ** 2) for away in (north_HH, east_WW))
    rows_HH /= rows_HH.sum(axis=1, keepdims=True)
    columns_WW /= columns_WW.sum(axis=1, keepdims=True)
    return np.asarray(rows_HH @ field @ columns_WW.T)


def area_mean(field: Array, grid: Grid) -> Array:
    """Area-weighted mean over (…, H, W)."""
    area_HW = cell_area(grid)
    return np.asarray((field * area_HW).sum((-2, -1)) / area_HW.sum())


def response(emissions: Emissions, grid: Grid) -> dict[str, Array]:
    """Anomalies (Y, H, W) of yearly means relative to the undisturbed climate, with ClimateBench's names and units.

    tas [K]: warming by greenhouse gases has a pattern of mean 1 that is stronger over land and at the poles, most of
    all in the north; aerosols act half uniformly and half, without delay, around their emissions.
    pr [kg m-2 s-1]: 2.2 % of 3.1e-5 per K by greenhouse gases, negative in the subtropics and largest at the equator;
    3 % per K by aerosols. pr90: 2.5 times as much. diurnal_temperature_range [K]: -0.12 K over land per K of warming
    by greenhouse gases, and less under sulphur dioxide.
    """
    lat_H1 = np.deg2rad(grid.lat)[:, None]
    land_HW = land_fraction(grid)
    amplified_HW = 0.7 + 1.1 * np.maximum(np.sin(lat_H1), 0) ** 4 + 0.4 * np.sin(lat_H1) ** 2 + 0.45 * land_HW
    amplified_HW /= area_mean(amplified_HW, grid)
    tg = cell_area(grid).sum() * SECONDS_PER_YEAR * 1e-9  # Tg yr-1 of a uniform 1 kg m-2 s-1
    forcing_YHW = tg * (_SO2_FORCING * emissions.so2_YHW + _BC_FORCING * emissions.bc_YHW)
    near_YHW = smoothed(forcing_YHW, grid, _NEAR_DEG)
    gases_YHW = warming(greenhouse_forcing(emissions))[:, None, None] * amplified_HW
    far_Y = warming(aerosol_forcing(emissions, grid))
    aerosols_YHW = 0.5 * far_Y[:, None, None] + 0.5 * _NEAR * near_YHW
    bands_H1 = 1 + 2.2 * np.exp(-((lat_H1 / 0.18) ** 2)) - 2.6 * np.exp(-(((np.abs(lat_H1) - 0.5) / 0.2) ** 2))
    wetter_YHW = 3.1e-5 * (0.022 * gases_YHW * bands_H1 + 0.030 * aerosols_YHW)
    return {
        "tas": gases_YHW + aerosols_YHW,
        "diurnal_temperature_range": -0.12 * gases_YHW * land_HW - 1.5e9 * emissions.so2_YHW * land_HW,
        "pr": wetter_YHW,
        "pr90": 2.5 * wetter_YHW,
    }
