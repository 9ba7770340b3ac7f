"""Members of a perfect-model ensemble: perturbed copies of the model's state, simulated from every start.

Runs in the GCM's own venv, as part of `jcm_driver.py`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jcm_output import Array, Times  # type: ignore[import-not-found]
from jcm_segments import SegmentWriter, Settings  # type: ignore[import-not-found]

HOUR, DAY = np.timedelta64(1, "h"), np.timedelta64(24, "h")
STEP_HOURS = 6
LARGEST_WAVENUMBER = 12.0
"""Total wavenumber at which the amplitude of the perturbations has fallen to 1/e: a wavelength of 3300 km."""
TEMPERATURE, WIND, HUMIDITY = 0, 1, 2  # of the random numbers; never change them


@dataclass(frozen=True, kw_only=True)
class ModelRun:
    """How the driver integrates: the model, and what to do with it."""

    model: Any
    forward: Callable[[float, np.datetime64], tuple[Times, Any]]
    """Days, instant before -> instants and output after each six hours; refuses output that is not finite."""
    fields: Callable[[Times, Any], dict[str, Array]]
    """Instants and output -> variables as written."""


class MembersOfStarts:
    """The members of all starts that are not done yet.

    A start is done when the state of the control after it is saved. A start that was interrupted is taken up after its
    last complete member: the noise depends on the seed, the start and the member alone.
    """

    def __init__(self, settings: Settings, attributes: dict[str, object], state: Path, done: np.datetime64) -> None:
        """`state`: file of the control's state; `done`: the instant that the control has reached."""
        self._settings, self._ensemble = settings, settings["ensemble"]
        self._starts: list[np.datetime64] = []
        self.writers: list[SegmentWriter] = []
        if self._ensemble is None:
            return
        every = [np.datetime64(one, "s") for one in self._ensemble["starts"]]
        self._of = len(every)
        self._starts = [one for one in every if one > done]
        segments = self._ensemble["segments"][self._of - len(self._starts) :]
        for number, own in enumerate(self._ensemble["writers"], start=1):
            told = {**settings, "folder": own["folder"], "facets": own["facets"], "segments": segments}
            folder = state.with_name(f"blocks-{number}")
            self.writers.append(SegmentWriter(told, attributes | own["attributes"], folder, quiet=True))

    def branch(self, run: ModelRun, now: np.datetime64, end: np.datetime64) -> None:
        """Simulate all members that start after `now`, where the control is, up to `end`; the control stays there."""
        if not self._starts or self._starts[0] > end:
            return
        control = run.model.run_state
        time = now
        while self._starts and self._starts[0] <= end:
            start = self._starts.pop(0)
            _advance(run, time, start)
            here, time = run.model.run_state, start
            self._simulate(run, start, here)
            _restore(run.model, here)
            done = f"{self._of - len(self._starts)}/{self._of}"
            print(f"start {str(start)[:10]}: {len(self.writers)} members, {done}", flush=True)
        _restore(run.model, control)

    def remove_written(self) -> None:
        """Remove what waited for complete segments; call it when the state of the control after them is saved."""
        for writer in self.writers:
            writer.remove_written()

    def _simulate(self, run: ModelRun, start: np.datetime64, state: Any) -> None:
        end = start + self._ensemble["hours"] * HOUR
        for member, writer in enumerate(self.writers, start=1):
            if not writer.has(start + STEP_HOURS * HOUR):
                noise = Noise(self._settings["seed"], start, member)
                _restore(run.model, state, perturbed(run.model, state.dynamics, self._ensemble["perturbation"], noise))
                blocks = [(times, run.fields(times, saved)) for times, saved in _steps(run, start, end)]
                times = np.concatenate([times for times, _ in blocks])
                names = blocks[0][1]
                writer.add(times, {name: np.concatenate([fields[name] for _, fields in blocks]) for name in names})
            writer.write_until(end)


def _steps(run: ModelRun, start: np.datetime64, end: np.datetime64) -> Iterator[tuple[Times, Any]]:
    """Run from one instant to the other in whole days, then in six hours: two lengths, so two compiled programs."""
    while start < end:
        length = DAY if end - start >= DAY else STEP_HOURS * HOUR
        yield run.forward(length / DAY, start)
        start = start + length


def _advance(run: ModelRun, start: np.datetime64, end: np.datetime64) -> None:
    for _ in _steps(run, start, end):
        pass


def _restore(model: Any, state: Any, dynamics: Any = None) -> None:
    model.restore_state(
        state.dynamics if dynamics is None else dynamics, state.physics, time=state.time, step=state.step
    )


class Noise:
    """Standard normal numbers that depend on the seed, the start, the member and the variable alone."""

    def __init__(self, seed: int, start: np.datetime64, member: int) -> None:
        hours = int((start - np.datetime64("0001-01-01T00", "h")) // HOUR)
        self._key = [seed, hours, member]

    def normal(self, variable: int, shape: tuple[int, ...]) -> Array:
        """Numbers of one variable."""
        sequence = np.random.SeedSequence([*self._key, variable])
        return np.random.Generator(np.random.Philox(sequence)).standard_normal(shape)


def perturbed(model: Any, dynamics: Any, sizes: dict[str, float], noise: Noise) -> Any:
    """A state of the spectral core with perturbations of these sizes (`ensemble.Perturbation`) added."""
    import jax.numpy as jnp
    from dinosaur.scales import units  # type: ignore[import-not-found]

    grid, scale = model.coords.horizontal, model.dycore._physics_specs
    changed = {}
    if sizes["temperature"]:
        amplitude = float(scale.nondimensionalize(sizes["temperature"] * units.kelvin))
        field_KML = amplitude * smooth_noise(grid, noise.normal(TEMPERATURE, noise_shape(model)))
        changed["temperature_variation"] = dynamics.temperature_variation + jnp.asarray(field_KML, jnp.float32)
    if sizes["wind"]:
        amplitude = float(scale.nondimensionalize(sizes["wind"] * units.meter / units.second))
        stream_KML = smooth_noise(grid, noise.normal(WIND, noise_shape(model)))
        vorticity_KML = np.asarray(stream_KML * grid.laplacian_eigenvalues)
        square_K = -(stream_KML * vorticity_KML).sum((1, 2)) / (4 * np.pi)  # mean of u² + v²
        vorticity_KML *= amplitude * np.sqrt(2 / square_K)[:, None, None]
        changed["vorticity"] = dynamics.vorticity + jnp.asarray(vorticity_KML, jnp.float32)
    if sizes["humidity"]:
        moist_KML = dynamics.tracers["specific_humidity"]
        noise_KWH = np.asarray(grid.to_nodal(smooth_noise(grid, noise.normal(HUMIDITY, noise_shape(model)))))
        a = sizes["humidity"]
        moist_KML = grid.to_modal(grid.to_nodal(moist_KML) * np.exp(a * noise_KWH - a * a / 2).astype(np.float32))
        changed["tracers"] = {**dynamics.tracers, "specific_humidity": moist_KML}
    return dynamics.replace(**changed)


def noise_shape(model: Any) -> tuple[int, int, int]:
    """Levels, longitudes and latitudes of the model."""
    return (model.coords.vertical.layers, *model.coords.horizontal.nodal_shape)


def smooth_noise(grid: Any, noise_KWH: Array) -> Array:
    """Spectral coefficients (K, M, L) of random fields, isotropic, of mean 0 and root mean square 1 over the globe."""
    _, order = grid.modal_axes
    window_L = np.exp(-((order / LARGEST_WAVENUMBER) ** 2)) * (order > 0)
    # White noise of equal power per area: the coefficients are independent and of equal variance.
    weight_WH = np.asarray(grid.quadrature_weights)
    found_KML = np.asarray(grid.to_modal(np.asarray(noise_KWH / np.sqrt(weight_WH), np.float32)), np.float64) * window_L
    square_K = (found_KML**2).sum((1, 2)) / (4 * np.pi)
    return found_KML / np.sqrt(square_K)[:, None, None]
