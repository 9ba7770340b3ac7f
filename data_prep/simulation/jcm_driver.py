"""Integrates the GCM and writes CMIP6-DRS files; runs in the GCM's own venv: python jcm_driver.py SETTINGS.json.

`simulate.py` writes the settings and starts it. jcm is imported late, so that an invalid setting fails in a second.
"""

import json
import os
import sys
import time
import warnings
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np
from jcm_output import Array, Field, Times, write_field  # type: ignore[import-not-found]
from jcm_variables import FIXED_VARIABLES, VARIABLES  # type: ignore[import-not-found]
from jcm_vertical import (  # type: ignore[import-not-found]
    GRAVITY,
    interpolate,
    interpolate_height,
    interpolate_temperature,
    log_pressure,
    sea_level_pressure,
)

REFERENCE_PRESSURE = 1.0e5  # Pa; jcm's surface pressure is a multiple of it
SAVE_DAYS = 0.25  # CMIP6 6hrPt
# CMIP6 variable -> jcm diagnostic, for variables that need no computation.
SURFACE_DIAGNOSTICS = {
    "tas": "surface_flux.t0",
    "uas": "surface_flux.u0",
    "vas": "surface_flux.v0",
    "ts": "surface_flux.tskin",
    "pr": "surface_exchange.precipitation",
}
LEVEL_DIAGNOSTICS = {"ua": "u_wind", "va": "v_wind", "hus": "specific_humidity"}
Settings = dict[str, Any]


def build_model(settings: Settings) -> tuple[Any, Any]:
    """The model and its forcing, from jcm's packaged climatological boundary files: nothing is downloaded."""
    import jax.numpy as jnp
    from jcm.forcing import ForcingData
    from jcm.model import Model
    from jcm.physics.speedy.params import Parameters
    from jcm.physics.speedy.speedy_coords import get_speedy_coords
    from jcm.physics.speedy.speedy_terms import speedy_physics
    from jcm.terrain import TerrainData

    parameters = Parameters.default()
    for group, values in settings["parameters"].items():
        part = getattr(parameters, group).replace(**{name: jnp.array(value) for name, value in values.items()})
        parameters = parameters.replace(**{group: part})
    boundary = resources.files("jcm.data.bc.t30.clim")
    coords = get_speedy_coords(layers=settings["layers"], spectral_truncation=settings["truncation"])
    terrain = TerrainData.from_file(boundary / "terrain.nc", coords=coords)
    # The climatology repeats every year; jcm maps it onto the Gregorian year, leap days included.
    forcing = ForcingData.from_file(boundary / "forcing.nc", coords=coords, align_mode="wrap_year")
    model = Model(coords=coords, terrain=terrain, physics=speedy_physics(parameters), start_time=settings["begin"])
    return model, forcing


def latitude_longitude(values: Any) -> Array:
    """jcm's (…, lon, lat) as float64 (…, lat, lon)."""
    return np.swapaxes(np.asarray(values, dtype=np.float64), -1, -2)


def on_pressure_levels(dataset: Any, wanted: dict[str, list[float]], orog_HW: Array) -> dict[str, Array]:
    """CMIP6 variables from a block of jcm output; `wanted` maps each name to its levels [Pa], empty at the surface."""
    sigma = (dataset["hybrid_a_full"].values / REFERENCE_PRESSURE + dataset["hybrid_b_full"].values).astype(np.float64)
    top_first = np.argsort(sigma)  # jcm writes surface first
    sigma_K = sigma[top_first]

    def get(name: str) -> Array:
        array = dataset[name]
        return latitude_longitude(array.isel(level=top_first).values if "level" in array.dims else array.values)

    ps_THW = get("normalized_surface_pressure") * REFERENCE_PRESSURE
    lnp_TKHW, ta_TKHW = log_pressure(ps_THW, sigma_K), get("temperature")
    out: dict[str, Array] = {}
    for name, levels in wanted.items():
        plev_P = np.array(levels)
        if name == "zg":
            out[name] = interpolate_height(get("geopotential") / GRAVITY, ta_TKHW, lnp_TKHW, plev_P)
        elif name == "ta":
            out[name] = interpolate_temperature(ta_TKHW, lnp_TKHW, plev_P)
        elif name in LEVEL_DIAGNOSTICS:
            out[name] = interpolate(get(LEVEL_DIAGNOSTICS[name]), lnp_TKHW, plev_P)
        elif name == "ps":
            out[name] = ps_THW
        elif name == "psl":
            out[name] = sea_level_pressure(ps_THW, ta_TKHW[:, -1], sigma_K[-1], orog_HW)
        else:
            out[name] = get(SURFACE_DIAGNOSTICS[name])
    return out


class SegmentWriter:
    """Collects the steps of each segment of time and writes its files when the segment is complete."""

    def __init__(self, settings: Settings, attributes: dict[str, object]) -> None:
        self.settings = settings
        self.attributes = attributes
        self.member = Path(settings["folder"])
        self.segments = [(np.datetime64(a), np.datetime64(b)) for a, b in settings["segments"]]
        self.times: list[Times] = []
        self.blocks: list[dict[str, Array]] = []

    def wants(self, times: Times) -> bool:
        """True if any of these instants is kept."""
        return any(((times >= a) & (times <= b)).any() for a, b in self.segments)

    def add(self, times: Times, fields: dict[str, Array]) -> None:
        """Add a block of steps; write every segment that ends in it."""
        while self.segments:
            first, last = self.segments[0]
            keep = (times >= first) & (times <= last)
            if keep.any():
                self.times.append(times[keep])
                self.blocks.append({name: values[keep].astype(np.float32) for name, values in fields.items()})
            if times[-1] < last:
                return
            self._write_segment()
            self.segments.pop(0)

    def _write_segment(self) -> None:
        times = np.concatenate(self.times)
        for name, levels in self.settings["variables"].items():
            values = np.concatenate([block[name] for block in self.blocks]).astype(np.float64)
            self.write(name, values, times, np.array(levels) if levels else None)
        print(f"wrote {times[0]} to {times[-1]}: {len(times)} steps", flush=True)
        self.times, self.blocks = [], []

    def write(self, name: str, values: Array, times: Times | None = None, plev: Array | None = None) -> None:
        """Write one variable as one file."""
        field = Field(name=name, metadata=vars(VARIABLES[name]), values=values, times=times, plev=plev)
        write_field(self.member, field, self.settings["facets"], self.attributes, self.settings["quantise"])


def write_fixed(writer: SegmentWriter, model: Any) -> Array:
    """Write orography [m] and land fraction [%]; return the model's orography (H, W) [m]."""
    orog_HW = latitude_longitude(model.terrain.phis0) / GRAVITY
    for name, values in zip(FIXED_VARIABLES, (orog_HW, 100.0 * latitude_longitude(model.terrain.fmask)), strict=True):
        writer.write(name, values)
    return orog_HW


def integrate(settings: Settings) -> None:
    """Run block by block from `begin` and write the segments."""
    # Blocks of equal length compile once. Saving every six hours costs nothing measurable, even during spin-up.
    model, forcing = build_model(settings)
    attributes = dict(settings["attributes"])
    attributes["jcm_version"] = metadata.version("jcm")
    attributes["jax_version"] = metadata.version("jax")
    writer = SegmentWriter(settings, attributes)
    orog_HW = write_fixed(writer, model)
    state = model.initial_state(random_seed=settings["seed"])  # isothermal, at rest, seeded pressure noise
    blocks, days = settings["blocks"], settings["block_days"]
    started = time.monotonic()
    steps = np.arange(1, round(days / SAVE_DAYS) + 1)  # the first save is one interval after the start
    for block in range(blocks):
        run = {"forcing": forcing, "save_interval": SAVE_DAYS, "total_time": float(days)}
        saved = model.resume(**run) if block else model.run(initial_state=state, **run)
        hours = block * days * 24 + steps * round(SAVE_DAYS * 24)
        times: Times = np.datetime64(settings["begin"]) + hours.astype("timedelta64[h]").astype("timedelta64[s]")
        if not np.isfinite(np.asarray(saved.dynamics.normalized_surface_pressure)).all():
            raise FloatingPointError("the model blew up; try another seed, parameter set or number of layers")
        if writer.wants(times):
            dataset = saved.to_xarray()
            if not (dataset["time"].values.astype("datetime64[s]") == times).all():
                raise ValueError(f"jcm's clock says {dataset['time'].values[0]}, expected {times[0]}")
            writer.add(times, on_pressure_levels(dataset, settings["variables"], orog_HW))
        elapsed = time.monotonic() - started
        left = elapsed / (block + 1) * (blocks - block - 1)
        done, of = (block + 1) * days, blocks * days
        print(f"day {done}/{of} ({str(times[-1])[:10]}), {elapsed:.0f} s, about {left:.0f} s left", flush=True)


def main() -> int:
    """Entry point; after a failure the last line of output is the error."""
    sys.path.pop(0)  # this file's folder: its modules must not hide modules of the GCM's packages
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        integrate(json.loads(Path(sys.argv[1]).read_text()))
    except (FloatingPointError, ValueError) as error:
        print(f"error: {error}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
