"""A trained model as a prognostic model of NVIDIA's earth2studio (github.com/NVIDIA/earth2studio).

earth2studio passes tensors (…, time, lead_time, variable, lat, lon) with a dictionary of coordinates. The class has the
methods of its protocol `PrognosticModel`, and needs no import of it. Names are earth2studio's (`z500`, `t2m`), units
are the same in both. Every forecast starts from the initial state, with one pass of the network per lead time.
Dimensions: N dimensions before them · T times · L states in time · B = N · T · C channels · O outputs · H, W grid.
"""

import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from climax_hpc.checkpoint.format import Checkpoint
from climax_hpc.checkpoint.regional import domain_of
from climax_hpc.config.inference import Precision, check_precision
from climax_hpc.data.dataset import DataSet
from climax_hpc.errors import UserError
from climax_hpc.fields.grid import Grid
from climax_hpc.fields.plausible_ranges import check_possible
from climax_hpc.fields.variables import TENDENCY_HOURS, lookup
from climax_hpc.inference.api import ClimaX, Lead, hours_of
from climax_hpc.inference.caveats import lead_notes, missing_inputs
from climax_hpc.inference.ensemble import model_grid
from climax_hpc.inference.forecaster import ClimatologyProvider, StateForecaster
from climax_hpc.inference.initial_conditions import (
    InitialConditions,
    ShardClimatology,
    ShardInitialConditions,
    choose_source,
)
from climax_hpc.inference.tendencies import ClimatologyWithTendencies, StatesWithTendencies, takes_tendencies

Array = NDArray[np.float64]
Coordinates = OrderedDict[str, NDArray[Any]]
_CALENDAR = "standard"  # of numpy's datetime64, for all dates that earth2studio has data of
_HOUR = np.timedelta64(1, "h")
_DIMENSIONS = ("time", "lead_time", "variable", "lat", "lon")
_BATCH = 8
_LEVELS = {
    "geopotential": "z", "u_component_of_wind": "u", "v_component_of_wind": "v", "temperature": "t",
    "relative_humidity": "r", "specific_humidity": "q",
}  # fmt: skip
_SURFACE = {
    "2m_temperature": "t2m", "10m_u_component_of_wind": "u10m", "10m_v_component_of_wind": "v10m",
    "mean_sea_level_pressure": "msl", "surface_pressure": "sp", "skin_temperature": "skt",
    "sea_surface_temperature": "sst", "total_precipitation_rate": "tpf",
}  # fmt: skip
"""Registry name -> earth2studio's, in the units of both (its E2STUDIO_VOCAB)."""


class CoordinatesError(UserError, ValueError):
    """Coordinates that do not fit the model: a ValueError, as the protocol of earth2studio asks."""


def earth2studio_name(name: str) -> str:
    """earth2studio's name of a registry variable.

    Raises:
        UserError: it has none in these units.
    """
    known = lookup(name)
    short = _SURFACE.get(name) if known.level_hpa is None else _LEVELS.get(known.stem)
    if short is None:
        raise UserError(f"variables: earth2studio has no name for {name}, an input or output of the model")
    return short if known.level_hpa is None else f"{short}{known.level_hpa}"


class ClimaXPrognostic:
    """One trained model, for `earth2studio.run.deterministic` and its other workflows."""

    def __init__(
        self,
        model: ClimaX,
        *,
        step: Lead = "6h",
        climatology: str | Path | None = None,
        climatology_source: str | None = None,
        variables: Sequence[str] | None = None,
        precision: Precision = "float32",
    ) -> None:
        """Prepare the model for global states in the standard calendar.

        Args:
            model: `ClimaX.from_pretrained(…)` of one checkpoint.
            step: distance of the lead times.
            climatology: packed data set on the grid of the model, in the standard calendar (such as packed ERA5):
                provides the climatology of an `anomaly` model, land-sea mask and orography.
            climatology_source: name of its source, if it holds several.
            variables: registry names wanted; None for all that the model forecasts.
            precision: arithmetic of the network: `float32`, `tf32` or `bfloat16`.

        Raises:
            UserError: several checkpoints, a regional model, one of means or of an unknown grid; a climatology that is
                missing or does not fit.
        """
        check_precision(precision)
        if len(model.checkpoints) != 1:
            raise UserError(f"model: holds {len(model.checkpoints)} checkpoints; give earth2studio one at a time")
        (self._checkpoint,) = model.checkpoints.values()
        self._step_hours = hours_of(step)
        if self._step_hours <= 0:
            raise UserError(f"step: {step!r} is not above 0 h")
        packed = None
        if climatology is not None:
            packed = choose_source(DataSet(climatology), climatology_source, "climatology_source")
        self._grid = _global_grid(self._checkpoint)
        self._states: InitialConditions = _NoStates(
            self._checkpoint, self._grid, ShardInitialConditions(packed) if packed else None
        )
        known = ShardClimatology(packed) if packed else None
        if known is not None:
            known.check_calendar(_CALENDAR)
        self._tendencies = takes_tendencies(self._checkpoint.metadata.in_variables)
        self._channels = tuple(self._states.channels)
        self._climatology: ClimatologyProvider | None = known
        if self._tendencies:
            self._states = StatesWithTendencies(self._states)
            self._climatology = ClimatologyWithTendencies(known) if known else None
        self._variables, self._precision = variables, precision
        self._inputs = np.array([earth2studio_name(name) for name in self._channels])
        self.device: torch.device | None = None
        self.to("cpu")
        self._outputs = np.array([earth2studio_name(name) for name in self._forecaster.outputs])
        if lacking := missing_inputs(self._checkpoint, self._forecaster.inputs):
            warnings.warn(f"the model was trained with {', '.join(lacking)}, which `climatology` lacks", stacklevel=2)

    def to(self, device: Any) -> "ClimaXPrognostic":
        """Move the network to a device; returns this object."""
        wanted = torch.device(device)
        if wanted == self.device:
            return self
        self.device = wanted
        self._forecaster = StateForecaster(
            self._checkpoint,
            self._states,
            climatology=self._climatology,
            calendar=_CALENDAR,
            variables=self._variables,
            device=self.device,
            precision=self._precision,
        )
        return self

    def input_coords(self) -> Coordinates:
        """The coordinates of the input: two states 6 h apart for models that take tendencies, rows from the north."""
        leads = [-TENDENCY_HOURS, 0.0] if self._tendencies else [0.0]
        return self._coords(leads, self._inputs)

    def output_coords(self, input_coords: Mapping[str, NDArray[Any]]) -> Coordinates:
        """The coordinates of the state one step after an input with these coordinates.

        Raises:
            CoordinatesError: they do not fit the model; the message names the dimension, and what it expects.
        """
        expected = self.input_coords()
        if tuple(input_coords)[-len(_DIMENSIONS) :] != _DIMENSIONS:
            raise CoordinatesError(
                f"coords: the dimensions are {', '.join(input_coords)}, expected any and then {', '.join(_DIMENSIONS)}"
            )
        for name in _DIMENSIONS:
            found = np.asarray(input_coords[name])
            if name == "lead_time":
                found = found - found[-1:]
            if name != "time" and not _same(found, expected[name]):
                raise CoordinatesError(
                    f"coords: {name} is {_short(input_coords[name])}, expected {_short(expected[name])}"
                )
        last = np.asarray(input_coords["lead_time"])[-1:]
        changed = {"lead_time": last + self._steps(1), "variable": self._outputs}
        return OrderedDict((name, changed.get(name, values)) for name, values in input_coords.items())

    def __call__(self, x: Tensor, coords: Coordinates) -> tuple[Tensor, Coordinates]:
        """The forecast one step after the last state of `x` (…, time, lead_time, variable, lat, lon).

        Raises:
            CoordinatesError: the coordinates do not fit the model.
            UserError: a variable has impossible values; a forecast is not finite.
        """
        return self._at(1, x, coords)

    def create_iterator(self, x: Tensor, coords: Coordinates) -> Iterator[tuple[Tensor, Coordinates]]:
        """The initial state, then the forecasts 1, 2, … steps after it, each directly from it, without end.

        Raises:
            CoordinatesError: the coordinates do not fit the model.
            UserError: a variable has impossible values; a forecast is not finite.
        """
        start = self.output_coords(coords)
        start["lead_time"] = np.asarray(coords["lead_time"])[-1:]
        places = [list(self._inputs).index(name) for name in self._outputs]
        yield x[..., -1:, :, :, :][..., places, :, :], start
        number = 0
        while True:
            number += 1
            yield self._at(number, x, coords)

    def _at(self, number: int, x: Tensor, coords: Coordinates) -> tuple[Tensor, Coordinates]:
        """The forecast `number` steps after the last state of `x`."""
        about, lead = self.output_coords(coords), number * self._step_hours
        if x.shape[-5:] != tuple(len(coords[name]) for name in _DIMENSIONS):
            raise CoordinatesError(f"x: its shape {tuple(x.shape)} is not that of its coordinates")
        about["lead_time"] = np.asarray(coords["lead_time"])[-1:] + self._steps(number)
        for note in lead_notes("the model", self._checkpoint, [lead]):
            warnings.warn(note, stacklevel=3)
        times_T = np.asarray(coords["time"]) + np.asarray(coords["lead_time"])[-1]
        hours_T = (times_T - np.datetime64("1850-01-01")) / _HOUR
        flat_BLCHW = x.flip(-2).reshape(-1, *x.shape[-4:]).cpu().numpy().astype(np.float64)
        hours_B = np.resize(hours_T, len(flat_BLCHW)).tolist()  # times vary fastest
        parts = [
            self._forecaster.step(
                self._input(flat_BLCHW[b : b + _BATCH]), hours_B[b : b + _BATCH], [lead] * len(hours_B[b : b + _BATCH])
            )
            for b in range(0, len(hours_B), _BATCH)
        ]
        y_BOHW = torch.from_numpy(np.concatenate(parts).astype(np.float32)).to(x.device).flip(-2)
        return y_BOHW.reshape(*x.shape[:-4], 1, *y_BOHW.shape[1:]), about

    def _input(self, x_BLCHW: Array) -> Array:
        """States and tendencies (B, I, H, W) in the order of the forecaster; refuses values that no variable has."""
        for c, (name, short) in enumerate(zip(self._channels, self._inputs, strict=True)):
            check_possible(x_BLCHW[:, :, c], name, f"x: {short}")
        found = []
        for name in self._forecaster.dynamic:
            of = lookup(name).tendency_of
            now_BHW = x_BLCHW[:, -1, self._channels.index(of or name)]
            found.append(now_BHW - x_BLCHW[:, 0, self._channels.index(of)] if of else now_BHW)
        return np.stack(found, axis=1)

    def _steps(self, number: int) -> np.timedelta64:
        return np.timedelta64(round(number * self._step_hours * 3600), "s").astype("timedelta64[ns]")

    def _coords(self, lead_hours: Sequence[float], names: NDArray[Any]) -> Coordinates:
        leads = np.array([np.timedelta64(round(lead), "h") for lead in lead_hours]).astype("timedelta64[ns]")
        found: dict[str, NDArray[Any]] = {"batch": np.empty(0), "time": np.empty(0), "lead_time": leads}
        return OrderedDict(found | {"variable": names, "lat": self._grid.lat[::-1].copy(), "lon": self._grid.lon})


class _NoStates:
    """What a forecaster needs to know of states that come later: their variables, static fields, grid and calendar."""

    def __init__(self, checkpoint: Checkpoint, grid: Grid, packed: ShardInitialConditions | None) -> None:
        if packed is not None and not packed.grid.same_centres(grid):
            raise UserError(
                f"climatology: source {packed.name} is on another grid than the model; pack it on the model's grid"
            )
        self.name, self.grid, self.calendar, self.tendencies = "earth2studio", grid, _CALENDAR, ()
        names = dict.fromkeys(lookup(v).tendency_of or v for v in checkpoint.metadata.in_variables)
        self.channels = [v for v in names if lookup(v).has_anomalies]
        latitude_HW = np.repeat(grid.lat[:, None], grid.shape[1], axis=1)
        self.static: Mapping[str, NDArray[Any]] = {"latitude": latitude_HW} | dict(packed.static if packed else {})
        self.hours: Array = np.empty(0)
        self.cell_methods: Mapping[str, str] = {}

    def read(self, time_index: int) -> Array:
        """See `InitialConditions.read`."""
        raise IndexError(time_index)


def _global_grid(checkpoint: Checkpoint) -> Grid:
    """The grid of a checkpoint of global states."""
    trained, grid = checkpoint.metadata.training, model_grid(checkpoint)
    if domain_of(checkpoint) is not None:
        raise UserError(f"model: {checkpoint.path} forecasts a region; earth2studio needs a global model")
    if trained is not None and trained.window is not None:
        raise UserError(f"model: {checkpoint.path} forecasts means over {trained.window.hours:g} h, not states")
    if grid is None:
        raise UserError(f"model: {checkpoint.path} does not record its grid; fine-tune it, which records it")
    return grid


def _same(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    """True for coordinates that agree: names and lead times exactly, degrees up to the rounding of float32."""
    if found.shape != expected.shape:
        return False
    exact = found.dtype.kind != "f" or expected.dtype.kind != "f"
    return bool((found == expected).all() if exact else np.allclose(found, expected, rtol=0, atol=1e-3))


def _short(values: Any) -> str:
    """Coordinates in a message: the first and the last of many."""
    shown = [str(value) for value in np.asarray(values).ravel().tolist()] or ["empty"]
    return ", ".join(shown) if len(shown) <= 4 else f"{shown[0]} … {shown[-1]} ({len(shown)})"
