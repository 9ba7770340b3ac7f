"""A stand-in for the GCM: the real driver with a chaotic map instead of jcm; run as toy_model.py DRIVER SETTINGS.

`die` beside the output, if there is one, holds a day: the process is killed by SIGKILL there. `fail` holds a parameter
set that blows up. `slow` makes every block last some time.
"""

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

LEVELS, COLUMNS, ROWS, STEPS_PER_DAY = 3, 8, 4, 4


@dataclass
class Values:
    """What the driver uses of an xarray.DataArray, whose import takes longer than the toy."""

    dims: tuple[str, ...]
    values: np.ndarray

    def isel(self, level: np.ndarray) -> "Values":
        return Values(self.dims, np.take(self.values, level, self.dims.index("level")))


class ToyModel:
    """x -> 3.9 x (1 - x) in every cell: after some steps, nothing is left of a start with one other bit."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.switches = Path(settings["state"]).parents[2]
        self.terrain = SimpleNamespace(phis0=np.zeros((COLUMNS, ROWS)), fmask=np.zeros((COLUMNS, ROWS)))
        self.x, self.steps = np.zeros((COLUMNS, ROWS)), 0

    def initial_state(self, random_seed: int) -> np.ndarray:
        return np.random.default_rng(random_seed).uniform(0.1, 0.9, (COLUMNS, ROWS))

    def bootstrap_state(self, x: np.ndarray) -> None:
        self.x, self.steps = x, 0

    @property
    def run_state(self) -> SimpleNamespace:
        return SimpleNamespace(dynamics=self.x, physics=None, time=self.steps, step=self.steps)

    def restore_state(self, dynamics: np.ndarray, physics: None, *, time: int, step: int) -> None:
        assert physics is None
        assert time == step
        self.x, self.steps = dynamics, step

    def resume(self, forcing: None, save_interval: float, total_time: float) -> Any:
        if (self.switches / "slow").exists():
            time.sleep(0.4)
        saved, first = [], self.steps
        for _ in range(round(total_time / save_interval)):
            self.x = 3.9 * self.x * (1 - self.x)
            self.steps += 1
            saved.append(self.x)
        die = self.switches / "die"
        if die.exists() and self.steps >= STEPS_PER_DAY * int(die.read_text()):
            die.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        fail = self.switches / "fail"
        source = self.settings["facets"]["source_id"]
        pressure = np.full(len(saved), np.nan if fail.exists() and fail.read_text() == source else 1.0)
        return SimpleNamespace(
            dynamics=SimpleNamespace(normalized_surface_pressure=pressure),
            to_xarray=lambda: self._dataset(np.stack(saved), first),
        )

    def _dataset(self, x_TWH: np.ndarray, first: int) -> dict[str, Values]:
        hours = 6 * (first + np.arange(1, len(x_TWH) + 1))
        surface = ("time", "lon", "lat")
        return {
            "time": Values(("time",), np.datetime64(self.settings["begin"]) + hours.astype("timedelta64[h]")),
            "hybrid_a_full": Values(("level",), np.zeros(LEVELS)),
            "hybrid_b_full": Values(("level",), np.array([0.9, 0.5, 0.1])),
            "normalized_surface_pressure": Values(surface, np.ones_like(x_TWH)),
            "temperature": Values(("time", "level", "lon", "lat"), np.full((len(x_TWH), LEVELS, COLUMNS, ROWS), 280.0)),
            "surface_flux.t0": Values(surface, 250.0 + 50.0 * x_TWH),
        }


def save_checkpoint(model: ToyModel, path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"x": [value.hex() for value in model.x.ravel()], "steps": model.steps}))
    temporary.replace(path)


def load_checkpoint(model: ToyModel, path: Path) -> float:
    saved = json.loads(path.read_text())
    model.x = np.array([float.fromhex(value) for value in saved["x"]]).reshape(COLUMNS, ROWS)
    model.steps = saved["steps"]
    return model.steps / STEPS_PER_DAY


def perturbed(model: ToyModel, x: np.ndarray, sizes: dict[str, float], noise: Any) -> np.ndarray:
    return np.clip(x + sizes["temperature"] * noise.normal(0, x.shape), 0.01, 0.99)


def main() -> int:
    driver = sys.argv.pop(1)
    sys.path.insert(0, str(Path(driver).parent))
    import jcm_driver  # type: ignore[import-not-found]
    import jcm_ensemble  # type: ignore[import-not-found]

    checkpoints: Any = ModuleType("jcm.checkpoint")
    checkpoints.save_checkpoint, checkpoints.load_checkpoint = save_checkpoint, load_checkpoint
    sys.modules |= {"jcm": ModuleType("jcm"), "jcm.checkpoint": checkpoints}
    jcm_driver.build_model = lambda settings: (ToyModel(settings), None)
    jcm_ensemble.perturbed = perturbed
    jcm_driver.metadata = SimpleNamespace(version=lambda name: "toy")
    jcm_driver.DayProgress.SECONDS = 0.0
    return int(jcm_driver.main())


if __name__ == "__main__":
    sys.exit(main())
