"""Synthetic CMIP6 files for the benchmarks: six-hourly fields of a 100 km model, compressed and split as on ESGF.

Shapes: T time steps, L levels, H rows, W columns.
"""

import shutil
from pathlib import Path

import netCDF4
import numpy as np
from numpy.typing import NDArray

from climax_hpc.fields.plausible_ranges import plausible_range
from climax_hpc.fields.variables import STANDARD_GRAVITY, channels_of

ROWS = 192  # Gaussian grid of MPI-ESM1-2-HR
LEVELS_HPA = (850, 500, 250)
SURFACE = {"tas": "K", "psl": "Pa"}
ON_LEVELS = {"ta": "K", "zg": "m", "ua": "m s-1"}
FILES_PER_VARIABLE = 4


def write_input(folder: Path, steps: int) -> None:
    """Write two surface variables and three variables on three levels, `steps` time steps in four files each.

    The later files of a variable repeat the fields of the first, because compression takes longer than packing.

    Raises:
        ValueError: `steps` is not a multiple of four.
    """
    if steps % FILES_PER_VARIABLE:
        raise ValueError(f"steps = {steps}: must be a multiple of {FILES_PER_VARIABLE}")
    patterns_KHW = _patterns(6)
    rng = np.random.default_rng(0)
    first, *later = np.arange(steps).reshape(FILES_PER_VARIABLE, -1)
    for name, units in {**SURFACE, **ON_LEVELS}.items():
        levels = LEVELS_HPA if name in ON_LEVELS else ()
        weights_TLK = rng.standard_normal((len(first), max(len(levels), 1), len(patterns_KHW)))
        centre_L11, scale_L11 = _centre_and_scale(name, levels)
        fields_TLHW = centre_L11 + scale_L11 * np.tensordot(weights_TLK, patterns_KHW, axes=1).astype(np.float32)
        paths = [folder / f"{name}_6hrPlevPt_BENCH_historical_r1i1p1f1_gn_{part}.nc" for part in range(1 + len(later))]
        _write(paths[0], name, units, levels, first, fields_TLHW)
        for path, at in zip(paths[1:], later, strict=True):
            shutil.copyfile(paths[0], path)
            with netCDF4.Dataset(path, "r+") as file:
                file["time"][:] = at / 4


def _centre_and_scale(name: str, levels: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centre and scale (L, 1, 1) of values that the variable can have, in the units of the file."""
    at = {variable.level_hpa: variable.name for variable in channels_of(name)}
    ranges = [plausible_range(at[level]) for level in (levels or (None,))]
    usual_L2 = np.array([known.usual for known in ranges if known is not None], np.float32)
    if name == "zg":
        usual_L2 /= STANDARD_GRAVITY
    low_L, high_L = usual_L2.T
    centre_L, scale_L = (low_L + high_L) / 2, (high_L - low_L) / 40
    return centre_L.astype(np.float32)[:, None, None], scale_L.astype(np.float32)[:, None, None]


def gaussian_rows() -> NDArray[np.float64]:
    """Latitudes (H,) of the Gaussian grid, ascending [degree]."""
    return np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(ROWS)[0]))


def _patterns(count: int) -> NDArray[np.float32]:
    """Smooth random fields (K, H, W) with unit standard deviation, periodic in longitude."""
    noise = np.random.default_rng(1).standard_normal((count, ROWS, 2 * ROWS))
    wave = np.hypot(np.fft.fftfreq(ROWS)[:, None] * ROWS, np.fft.fftfreq(2 * ROWS)[None] * 2 * ROWS)
    smooth = np.fft.ifft2(np.fft.fft2(noise) / (1 + (wave / 8) ** 3)).real
    return (smooth / smooth.std(axis=(1, 2), keepdims=True)).astype(np.float32)


def _write(
    path: Path,
    name: str,
    units: str,
    levels: tuple[int, ...],
    steps: NDArray[np.int64],
    fields_TLHW: NDArray[np.float32],
) -> None:
    with netCDF4.Dataset(path, "w") as file:
        file.setncatts({"source_id": "BENCH", "experiment_id": "historical", "variant_label": "r1i1p1f1"})
        file.setncatts({"table_id": "6hrPlevPt", "variable_id": name, "frequency": "6hrPt", "grid_label": "gn"})
        axes: dict[str, tuple[NDArray[np.float64], dict[str, str]]] = {
            "time": (steps / 4, {"units": "days since 1850-01-01", "calendar": "proleptic_gregorian"}),
            "plev": (100.0 * np.array(levels), {"units": "Pa", "standard_name": "air_pressure"}),
            "lat": (gaussian_rows(), {"units": "degrees_north", "standard_name": "latitude"}),
            "lon": (np.arange(2 * ROWS) * 180.0 / ROWS, {"units": "degrees_east", "standard_name": "longitude"}),
        }
        dimensions = [key for key in axes if key != "plev" or levels]
        for key in dimensions:
            values, attributes = axes[key]
            file.createDimension(key, len(values))
            axis = file.createVariable(key, "f8", (key,))
            axis.setncatts(attributes)
            axis[:] = values
        chunks = (1, *fields_TLHW.shape[1 if levels else 2 :])
        variable = file.createVariable(
            name, "f4", dimensions, zlib=True, complevel=1, shuffle=True, chunksizes=chunks, fill_value=1e20
        )
        variable.units = units
        variable[:] = fields_TLHW if levels else fields_TLHW[:, 0]
