"""Prints as JSON what a perturbation adds to a state of the real GCM; in its venv: measure_perturbation.py DRIVER."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {"temperature": 0.3, "wind": 0.5, "humidity": 0.2}


def main() -> None:
    sys.path.insert(0, str(Path(sys.argv[1]).parent))
    import jcm_driver  # type: ignore[import-not-found]
    import jcm_ensemble  # type: ignore[import-not-found]
    from dinosaur.scales import units  # type: ignore[import-not-found]
    from dinosaur.spherical_harmonic import vor_div_to_uv_nodal  # type: ignore[import-not-found]

    settings = {"parameters": {}, "layers": 5, "truncation": 21, "begin": "2001-01-01T00:00:00"}
    model, _ = jcm_driver.build_model(settings)
    grid, scale = model.coords.horizontal, model.dycore._physics_specs
    state = model.initial_state(random_seed=1)
    moist = 1 + 0 * grid.to_nodal(state.tracers["specific_humidity"])
    state = state.replace(tracers={"specific_humidity": grid.to_modal(moist)})
    weight = np.asarray(grid.quadrature_weights) / np.asarray(grid.quadrature_weights).sum()

    def rms(field: Any) -> list[float]:
        return np.sqrt((np.asarray(field, np.float64) ** 2 * weight).sum((-2, -1))).tolist()

    def start(sizes: dict[str, float], member: int = 1) -> Any:
        noise = jcm_ensemble.Noise(7, np.datetime64("2001-01-01T00"), member)
        return jcm_ensemble.perturbed(model, state, {**dict.fromkeys(SIZES, 0.0), **sizes}, noise)

    one, other, again = start(SIZES), start(SIZES, 2), start(SIZES)
    kelvin = float(scale.dimensionalize(1.0, units.kelvin).m)
    speed = float(scale.dimensionalize(1.0, units.meter / units.second).m)
    warmer = np.asarray(grid.to_nodal(one.temperature_variation - state.temperature_variation))
    turned = one.vorticity - state.vorticity
    u, v = vor_div_to_uv_nodal(grid, turned, 0 * turned)
    moister = np.asarray(grid.to_nodal(one.tracers["specific_humidity"]))
    dry = start({"wind": 0.5}).tracers["specific_humidity"] - state.tracers["specific_humidity"]
    found = {
        "temperature": [kelvin * x for x in rms(warmer)],
        "wind": [speed * (0.5 * (a * a + b * b)) ** 0.5 for a, b in zip(rms(u), rms(v), strict=True)],
        "humidity": rms(np.log(moister)),
        "divergence": rms(grid.to_nodal(one.divergence - state.divergence)),
        "mean": float((warmer * weight).sum()),
        "members_differ": bool((one.vorticity != other.vorticity).any()),
        "same_bits": bool((one.vorticity == again.vorticity).all()),
        "dry": rms(grid.to_nodal(dry)),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
