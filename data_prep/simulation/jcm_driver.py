"""Integrates the GCM and writes CMIP6-DRS files; runs in the GCM's own venv: python jcm_driver.py SETTINGS.json.

`simulate.py` writes the settings and starts it. jcm is imported late, so that an invalid setting fails in a second.
The model's state is saved after every block of days; started again, an interrupted run resumes there, bit for bit.
"""

import json
import os
import sys
import threading
import time
import warnings
from functools import partial
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np
from jcm_ensemble import MembersOfStarts, ModelRun  # type: ignore[import-not-found]
from jcm_output import Array, Times  # type: ignore[import-not-found]
from jcm_segments import SegmentWriter, Settings  # type: ignore[import-not-found]
from jcm_variables import FIXED_VARIABLES  # type: ignore[import-not-found]
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


def write_fixed(writer: SegmentWriter, model: Any) -> Array:
    """Write orography [m] and land fraction [%]; return the model's orography (H, W) [m]."""
    orog_HW = latitude_longitude(model.terrain.phis0) / GRAVITY
    for name, values in zip(FIXED_VARIABLES, (orog_HW, 100.0 * latitude_longitude(model.terrain.fmask)), strict=True):
        writer.write(name, values)
    return orog_HW


class DayProgress:
    """Lines about the speed, in simulated days a minute."""

    SECONDS = 10.0
    """Between two lines."""

    def __init__(self, days: int, done: int) -> None:
        """`days` in all, of which an interrupted run has `done`."""
        self.days, self.first = days, done
        self.started = self.told = time.monotonic()

    def report(self, done: int, now: Any) -> None:
        """Print how far the run has come, unless it has done so a moment ago."""
        seconds = time.monotonic() - self.started
        if done < self.days and time.monotonic() - self.told < self.SECONDS:
            return
        self.told = time.monotonic()
        speed = (done - self.first) / seconds
        left = f"about {(self.days - done) / speed:.0f} s left" if done < self.days else f"{seconds:.0f} s"
        print(f"day {done}/{self.days} ({str(now)[:10]}), {60 * speed:.0f} days a minute, {left}", flush=True)


def restore(model: Any, settings: Settings, state: Path) -> int:
    """Put the model at its start, or where an interrupted run saved its state; returns the simulated days."""
    from jcm.checkpoint import load_checkpoint

    model.bootstrap_state(model.initial_state(random_seed=settings["seed"]))  # isothermal, at rest, pressure noise
    if not state.exists():
        return 0
    done = round(load_checkpoint(model, state))
    print(f"resumes at day {done}/{settings['blocks'] * settings['block_days']}", flush=True)
    return done


def integrate(settings: Settings) -> None:
    """Run block by block from `begin`, or from the last saved state, and write the segments."""
    # Blocks of equal length compile once. Saving every six hours costs nothing measurable, even during spin-up.
    model, forcing = build_model(settings)
    from jcm.checkpoint import save_checkpoint

    attributes = dict(settings["attributes"])
    attributes["jcm_version"] = metadata.version("jcm")
    attributes["jax_version"] = metadata.version("jax")
    state = Path(settings["state"])
    writer = SegmentWriter(settings, attributes, state.with_name("blocks"))
    orog_HW = write_fixed(writer, model)
    days = settings["block_days"]
    done = restore(model, settings, state)
    begin = np.datetime64(settings["begin"], "s")
    writer.go_on_after(begin + np.timedelta64(done, "D"))
    members = MembersOfStarts(settings, attributes, state, begin + np.timedelta64(done, "D"))
    for one in members.writers if done < settings["blocks"] * days else ():  # else they may be in their place
        write_fixed(one, model)
    run = ModelRun(
        model=model,
        forward=partial(forward, model, forcing),
        fields=lambda times, saved: fields_of(times, saved, settings, orog_HW),
    )
    progress = DayProgress(settings["blocks"] * days, done)
    while done < progress.days:
        now, end = (begin + np.timedelta64(day, "D") for day in (done, done + days))
        members.branch(run, now, end)
        times, saved = run.forward(float(days), now)
        if writer.wants(times):
            writer.add(times, run.fields(times, saved))
        done += days
        save_checkpoint(model, state)  # whole or not at all, and on the disk
        writer.remove_written()
        members.remove_written()
        progress.report(done, times[-1])


def forward(model: Any, forcing: Any, days: float, now: np.datetime64) -> tuple[Times, Any]:
    """Integrate from `now`: instants of the output after every six hours, and the output.

    Raises:
        FloatingPointError: it is not finite.
    """
    saved = model.resume(forcing=forcing, save_interval=SAVE_DAYS, total_time=days)
    if not np.isfinite(np.asarray(saved.dynamics.normalized_surface_pressure)).all():
        raise FloatingPointError("the model blew up; try another seed, parameter set or number of layers")
    hours = np.arange(1, round(days / SAVE_DAYS) + 1) * round(SAVE_DAYS * 24)  # the first save is one interval later
    return now + hours.astype("timedelta64[h]").astype("timedelta64[s]"), saved


def fields_of(times: Times, saved: Any, settings: Settings, orog_HW: Array) -> dict[str, Array]:
    """Variables as written, of output of the model.

    Raises:
        ValueError: it is of other instants.
    """
    dataset = saved.to_xarray()
    if not (dataset["time"].values.astype("datetime64[s]") == times).all():
        raise ValueError(f"jcm's clock says {dataset['time'].values[0]}, expected {times[0]}")
    return on_pressure_levels(dataset, settings["variables"], orog_HW)


def end_with_parent() -> None:
    """End this process when its parent ends, even by SIGKILL: the parent holds the other end of standard input."""

    def wait() -> None:
        while os.read(0, 1):  # not sys.stdin, whose lock would be held at the end of this process
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main() -> int:
    """Entry point; after a failure the last line of output is the error."""
    sys.path.pop(0)  # this file's folder: its modules must not hide modules of the GCM's packages
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    end_with_parent()
    settings = json.loads(Path(sys.argv[1]).read_text())
    try:
        integrate(settings)
    except (FloatingPointError, ValueError) as error:
        Path(settings["state"]).unlink(missing_ok=True)  # it would fail in the same way again
        print(f"error: {error}", flush=True)
        return 1
    except OSError as error:
        print(f"error: {error}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
