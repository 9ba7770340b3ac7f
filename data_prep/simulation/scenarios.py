"""Writes scenarios of the toy climate (`energy_balance.py`) in ClimateBench's layout, for tests, demo and studies.

    python -m climax_hpc.data_prep.simulation.scenarios FOLDER

writes `inputs_<experiment>.nc` and `outputs_<experiment>.nc` of the benchmark's seven experiments, which
`climax-hpc pack --config climatebench` reads. Emissions are curves through a few years modelled on the scenarios of
CMIP6 (Gidden et al. 2019), not their data. Outputs are anomalies relative to the undisturbed climate, as in the
archive; each member has its own internal variability.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import netCDF4
import numpy as np
from numpy.typing import NDArray

from climax_hpc.data_prep.simulation.energy_balance import Emissions, area_mean, global_total, response, smoothed
from climax_hpc.errors import UserError
from climax_hpc.fields.grid import Grid, regular_grid
from climax_hpc.utils.atomic import write_atomically

Array = NDArray[np.float64]
TITLE = "toy climate of climax_hpc in ClimateBench's layout, not ClimateBench"
"""Global attribute `title` of every file; packed data have it in their identity."""
EXPERIMENTS = ("historical", "ssp126", "ssp370", "ssp585", "hist-GHG", "hist-aer", "ssp245")
"""Experiments of the benchmark; ssp245 is its test."""
_FIRST, _PRESENT, _LAST = 1850, 2014, 2100
_PAST = {  # year: emissions of CO2 [Gt yr-1], CH4 [Gt yr-1], SO2 [Tg yr-1], BC [Tg yr-1]
    1850: (2.5, 0.03, 2, 1.0), 1900: (5, 0.08, 20, 2.0), 1940: (9, 0.12, 45, 2.6), 1960: (15, 0.20, 85, 3.2),
    1980: (24, 0.29, 125, 4.6), 2000: (31, 0.32, 105, 6.0), 2014: (41, 0.38, 100, 8.0),
}  # fmt: skip
_FUTURE = {
    "ssp126": {
        2030: (34, 0.27, 60, 5.0), 2050: (17, 0.18, 30, 3.2),
        2075: (0, 0.14, 18, 2.4), 2100: (-9, 0.12, 12, 2.0),
    },
    "ssp245": {
        2030: (43, 0.38, 80, 7.0), 2050: (43, 0.38, 60, 6.0),
        2075: (27, 0.34, 40, 4.8), 2100: (10, 0.30, 30, 4.0),
    },
    "ssp370": {
        2030: (53, 0.48, 98, 8.4), 2050: (62, 0.57, 94, 8.2),
        2075: (72, 0.68, 86, 7.6), 2100: (83, 0.78, 78, 7.0),
    },
    "ssp585": {
        2030: (55, 0.46, 82, 6.6), 2050: (85, 0.53, 62, 5.2),
        2075: (125, 0.54, 42, 4.0), 2100: (127, 0.47, 32, 3.2),
    },
}  # fmt: skip
# Where sulphur and black carbon are emitted: latitude, longitude, share in 1850 and in 2100 (linear in between).
_SO2_REGIONS = ((42, 275, 0.40, 0.12), (50, 15, 0.50, 0.08), (32, 112, 0.06, 0.40), (22, 80, 0.04, 0.40))
_BC_REGIONS = ((42, 275, 0.25, 0.05), (50, 15, 0.25, 0.05), (32, 112, 0.25, 0.35), (5, 20, 0.25, 0.55))
_NOISE = {"tas": 0.25, "diurnal_temperature_range": 0.06, "pr": 1.2e-6, "pr90": 4e-6}
"""Standard deviation of a member's yearly mean in a cell, in the variable's units."""
_NOISE_DEG = 9.0  # its correlation length
_MEMORY = 0.4  # correlation of one year's internal variability with the next


def emissions_of(experiment: str, grid: Grid) -> tuple[NDArray[np.int64], Emissions]:
    """All years from 1850 to the experiment's last, and their emissions; scenarios continue the historical emissions.

    hist-GHG has no aerosols, hist-aer neither CO2 nor CH4.

    Raises:
        UserError: no such experiment.
    """
    if experiment not in EXPERIMENTS:
        raise UserError(f"unknown experiment {experiment!r}; choose from {', '.join(EXPERIMENTS)}")
    curve = _PAST | _FUTURE.get(experiment, {})
    years = np.arange(_FIRST, (_LAST if experiment in _FUTURE else _PRESENT) + 1)
    known = np.array([curve[year] for year in sorted(curve)]).T
    co2_Y, ch4_Y, so2_Y, bc_Y = (np.interp(years, sorted(curve), values) for values in known)
    gases, aerosols = float(experiment != "hist-aer"), float(experiment != "hist-GHG")
    return years, Emissions(
        co2_Y=gases * co2_Y,
        ch4_Y=gases * ch4_Y,
        so2_YHW=_flux(aerosols * so2_Y, years, _SO2_REGIONS, grid),
        bc_YHW=_flux(aerosols * bc_Y, years, _BC_REGIONS, grid),
    )


def _flux(total_Y: Array, years: NDArray[np.int64], regions: Sequence[tuple[float, ...]], grid: Grid) -> Array:
    """Emissions (Y, H, W) [kg m-2 s-1] of these totals [Tg yr-1] around the regions, whose shares change in time."""
    lat_HW, lon_HW = np.meshgrid(grid.lat, grid.lon, indexing="ij")
    late_Y11 = ((years - _FIRST) / (_LAST - _FIRST))[:, None, None]
    flux_YHW = np.zeros((len(years), *grid.shape))
    for lat, lon, first, last in regions:
        east_HW = ((lon_HW - lon + 180) % 360 - 180) * np.cos(np.deg2rad(lat))
        spot_HW = np.exp(-((lat_HW - lat) ** 2 + east_HW**2) / (2 * 9.0**2))
        flux_YHW += (first + (last - first) * late_Y11) * spot_HW / area_mean(spot_HW, grid)
    return flux_YHW * (total_Y / global_total(flux_YHW, grid))[:, None, None]


def internal_variability(members: int, years: int, grid: Grid, seed: Sequence[int]) -> Array:
    """Standard normal fields (member, Y, H, W): smooth in space, first-order autoregressive from year to year."""
    generator = np.random.default_rng(list(seed))
    fields = smoothed(generator.standard_normal((members, years, *grid.shape)), grid, _NOISE_DEG)
    fields /= fields.std()
    for year in range(1, years):
        fields[:, year] = _MEMORY * fields[:, year - 1] + np.sqrt(1 - _MEMORY**2) * fields[:, year]
    return fields


def write_scenarios(
    folder: Path,
    *,
    grid: Grid | None = None,
    experiments: Sequence[str] = EXPERIMENTS,
    members: int = 3,
    seed: int = 0,
    noise: float = 1.0,
    first_year: int = _FIRST,
) -> list[Path]:
    """Write the files of these experiments below `folder` and return their paths; deterministic for given arguments.

    Args:
        folder: created if it is absent; files of the same names are replaced.
        grid: None: ClimaX's 5.625°.
        members: simulations of each experiment; they differ only in internal variability.
        noise: factor on the internal variability; 0 keeps only the forced response.
        first_year: historical years before it are not written; their emissions still count.

    Raises:
        UserError: an unknown experiment, no member, or a first year outside 1850 … 2014.
    """
    if members < 1 or not _FIRST <= first_year <= _PRESENT:
        raise UserError(
            f"scenarios: members={members}, first_year={first_year} is invalid; "
            f"use members >= 1 and a first_year from {_FIRST} to {_PRESENT}"
        )
    grid = grid or regular_grid(5.625)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for experiment in experiments:
        years, emissions = emissions_of(experiment, grid)
        kept = slice(int(np.searchsorted(years, _PRESENT + 1 if experiment in _FUTURE else first_year)), None)
        inputs = {
            "CO2": np.cumsum(emissions.co2_Y)[kept],
            "CH4": emissions.ch4_Y[kept],
            "SO2": emissions.so2_YHW[kept],
            "BC": emissions.bc_YHW[kept],
        }
        outputs = {}
        for k, (name, forced_YHW) in enumerate(response(emissions, grid).items()):
            own = internal_variability(members, len(years[kept]), grid, (seed, EXPERIMENTS.index(experiment), k))
            outputs[name] = forced_YHW[kept] + noise * _NOISE[name] * own
        for kind, fields in (("inputs", inputs), ("outputs", outputs)):
            path = folder / f"{kind}_{experiment}.nc"
            write_atomically(path, partial(_write, kind=kind, years=years[kept], grid=grid, fields=fields))
            written.append(path)
    return written


def _write(path: Path, kind: str, years: NDArray[np.int64], grid: Grid, fields: dict[str, Array]) -> None:
    """Dimensions as in the archive: (time, latitude, longitude) for inputs, (member, time, lat, lon) for outputs."""
    names = ("latitude", "longitude") if kind == "inputs" else ("lat", "lon")
    with netCDF4.Dataset(path, "w") as file:
        file.title = TITLE
        axes = dict(zip(("time", *names), (years, grid.lat, grid.lon), strict=True))
        if kind == "outputs":
            axes = {"member": np.arange(len(fields["tas"])) + 1} | axes
        for name, axis in axes.items():
            file.createDimension(name, len(axis))
            file.createVariable(name, "f8" if name in names else "i8", (name,))[:] = axis
        for name, field in fields.items():
            dims = tuple(axes)[: field.ndim]
            file.createVariable(name, "f4" if field.ndim > 1 else "f8", dims, compression="zlib")[:] = field


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m climax_hpc.data_prep.simulation.scenarios FOLDER")
    for path_written in write_scenarios(Path(sys.argv[1])):
        print(path_written)
