"""An ensemble: checkpoints that forecast the same variables from the same states, and the members that each makes.

Dimensions: B states · C channels of the input · O outputs · H, W grid.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from climax_hpc.checkpoint.format import Checkpoint
from climax_hpc.checkpoint.metadata import common_window
from climax_hpc.checkpoint.regional import domain_of
from climax_hpc.config.ensemble_output import EnsembleOutputConfig
from climax_hpc.config.inference import Precision
from climax_hpc.distributed import process_group
from climax_hpc.errors import UserError
from climax_hpc.fields.calendar_days import day_numbers
from climax_hpc.fields.calendars import to_seconds
from climax_hpc.fields.grid import Grid, check_same_cells, regular_grid
from climax_hpc.fields.regions import cut
from climax_hpc.fields.variables import TENDENCY_HOURS, in_registry_order
from climax_hpc.inference.calibration import FieldWriter, MemberCalibrator
from climax_hpc.inference.calibration_file import EnsembleCalibration, read_calibration
from climax_hpc.inference.caveats import lead_notes, missing_inputs, season_notes
from climax_hpc.inference.cf import ForecastContent
from climax_hpc.inference.forecaster import StateForecaster
from climax_hpc.inference.initial_conditions import InitialConditions, ShardClimatology
from climax_hpc.inference.member_runs import ModelMembers, direct, rolled_out
from climax_hpc.inference.regional import RegionalClimatology, RegionalInitialConditions, members_domain
from climax_hpc.inference.tendencies import ClimatologyWithTendencies, StatesWithTendencies, takes_tendencies
from climax_hpc.model.band import RowBand
from climax_hpc.model.output_modes import ANOMALY_NOTE
from climax_hpc.model.rollout import check_closed


class Ensemble:
    """One or more checkpoints that forecast the same variables from the same states."""

    def __init__(
        self,
        checkpoints: dict[str, Checkpoint],
        states: InitialConditions,
        *,
        climatology: ShardClimatology | RegionalClimatology | None,
        variables: Sequence[str] | None,
        rollout_hours: float | None,
        precision: Precision = "float32",
        band: RowBand | None = None,
        output: EnsembleOutputConfig | None = None,
    ) -> None:
        """`rollout_hours`: step of an iterative roll-out [h]; None forecasts every lead time in one pass.

        `band`: as of `StateForecaster`. `output`: members and their statistics; None: one member per checkpoint.

        Raises:
            UserError: the members differ in grid, share no variable, or cannot take their own output as input; members
                or statistics that the models cannot have.
        """
        self._output = output or EnsembleOutputConfig()
        self._domain = members_domain(checkpoints)
        self._window = common_window({label: p.metadata.training for label, p in checkpoints.items()})
        if self._window and rollout_hours:
            raise UserError(
                f"rollout_hours: the models forecast means over {self._window.hours:g} h, which cannot be rolled out; "
                "leave it out"
            )
        if self._domain:
            states = RegionalInitialConditions(states, self._domain)
            climatology = RegionalClimatology(climatology, self._domain) if climatology else None
        self._checkpoints, self._states, self._rollout = checkpoints, states, rollout_hours
        self._precision = precision
        for checkpoint in checkpoints.values():
            _check_shape(checkpoint, states)
        if climatology is not None:
            _check_climatology(climatology, states)
        known: ShardClimatology | RegionalClimatology | ClimatologyWithTendencies | None = climatology
        if any(takes_tendencies(checkpoint.metadata.in_variables) for checkpoint in checkpoints.values()):
            self._states = states = StatesWithTendencies(states)
            known = ClimatologyWithTendencies(climatology) if climatology else None
        names = _common_outputs(list(checkpoints.values()), states, variables)
        forecasters = [
            StateForecaster(
                checkpoint,
                states,
                climatology=known,
                calendar=states.calendar,
                variables=None if rollout_hours else names,
                device=process_group.device(),
                precision=precision,
                band=band,
                noise_seed=self._output.noise_seed,
            )
            for checkpoint in checkpoints.values()
        ]
        self.variables = tuple(names)
        self._models = _model_members(list(checkpoints.values()), forecasters, names, self._output)
        self._calibration = self._read_calibration()
        if rollout_hours:
            for label, one in zip(checkpoints, forecasters, strict=True):
                check_closed(one.dynamic, one.outputs, "rollout_hours", label, rollout_hours)

    def _read_calibration(self) -> EnsembleCalibration | None:
        """What the output asks for, if it does.

        Raises:
            UserError: a single member, several networks with noise, a regional model, or a calibration of other
                forecasts.
        """
        if self._output.calibration is None:
            return None
        if self._domain:
            raise UserError("calibration: is for global models; leave it out")
        if self.size < 2:
            raise UserError("calibration scales the spread of members, and there is one: set members, or leave it out")
        if len(self._checkpoints) > 1 and any(map(has_noise, self._checkpoints.values())):
            raise UserError("calibration: is for one network with noise, or several without; leave it out")
        weights = [checkpoint.weights_sha256 for checkpoint in self._checkpoints.values()]
        found = read_calibration(self._output.calibration, weights)
        found.check(self.variables, self._states.grid, self._rollout)
        return found

    def starts(self, wanted: Sequence[int], note: Callable[[str], None]) -> list[int]:
        """Those of the time indices from which the models can forecast: tendencies need a state 6 h before.

        Args:
            wanted: time indices.
            note: is told how many are left out, if any are.

        Raises:
            UserError: none is left.
        """
        if not isinstance(self._states, StatesWithTendencies):
            return list(wanted)
        found = [t for t in wanted if self._states.before(t) is not None]
        if not found:
            raise UserError(
                f"{self._states.name}: no start has a state {TENDENCY_HOURS:g} h before it, which the models take "
                "tendencies from: give earlier states too"
            )
        if left_out := len(wanted) - len(found):
            note(
                f"{left_out} of {len(wanted)} starts are left out: {self._states.name} has no state "
                f"{TENDENCY_HOURS:g} h before them, which the models take tendencies from"
            )
        return found

    def content(
        self, lead_hours: Sequence[float], start_hours: Sequence[float], attributes: dict[str, Any]
    ) -> ForecastContent:
        """Metadata of a file of the forecasts from these starts [h since 1850].

        Raises:
            UserError: the calibration lacks a lead time.
        """
        members, labels = [], []
        for (label, p), model in zip(self._checkpoints.items(), self._models, strict=True):
            noise = "" if model.noise is None else f", noise with seed {self._output.noise_seed}"
            about = (
                f"{label} (step {p.metadata.step}, output mode {p.metadata.config.output_mode}, weights sha256 "
                f"{p.weights_sha256[:16]}{noise})"
            )
            members += [about] * model.size
            labels += [label] * model.size
        how = (
            f"iterative roll-out in steps of {self._rollout:g} h" if self._rollout else "direct, one pass per lead time"
        )
        if self._calibration:
            self._calibration.check_leads(lead_hours)
        comment = " ".join(self.notes(lead_hours, start_hours)) or "All lead times lie in the trained range."
        return ForecastContent(
            variables=self.variables,
            grid=self._domain.region_grid if self._domain else self._states.grid,
            calendar=self._states.calendar,
            lead_hours=tuple(lead_hours),
            members=tuple(members),
            labels=tuple(labels),
            step_hours=round(float(np.diff(self._states.hours).min()), 6) if len(self._states.hours) > 1 else None,
            cell_methods=dict(self._states.cell_methods),
            mean_hours=self._window.hours if self._window else None,
            attributes={"forecast_method": how, "comment": comment, **self._scope(), **attributes},
            output=self._output,
        )

    def _scope(self) -> dict[str, Any]:
        """Attributes that name the region, the averaging window, and an arithmetic that rounds."""
        found: dict[str, Any] = {}
        if self._domain:
            box = self._domain.region
            found["region"] = f"{box.name}: {box.south:g} to {box.north:g} N, {box.west:g} to {box.east:g} E"
        if self._calibration:
            found["calibration"] = self._calibration.description
        if self._precision != "float32":
            found["precision"] = self._precision
        if self._window:
            every = f", a value every {self._window.step_hours:g} h" if self._window.step_hours else ""
            found["window"] = f"means over {self._window.hours:g} h from lead_time on{every}"
        return found

    def notes(self, lead_hours: Sequence[float], start_hours: Sequence[float]) -> list[str]:
        """Caveats for readers: untrained lead times, missing inputs, the anomaly mode, a calibration's seasons."""
        found = []
        asked = [self._rollout] if self._rollout else list(lead_hours)
        for label, checkpoint in self._checkpoints.items():
            found += lead_notes(label, checkpoint, asked)
        for (label, checkpoint), model in zip(self._checkpoints.items(), self._models, strict=True):
            if lacking := missing_inputs(checkpoint, model.forecaster.inputs):
                found.append(f"{label} was trained with {', '.join(lacking)}, which the input lacks.")
        if any(p.metadata.config.output_mode == "anomaly" for p in self._checkpoints.values()):
            found.append(ANOMALY_NOTE)
        if self._calibration:
            valid_T = np.add.outer(np.asarray(start_hours, float), np.asarray(lead_hours, float)).ravel()
            found += season_notes("The calibration", self._calibration.entry.days, valid_T, self._states.calendar)
        return found

    @property
    def size(self) -> int:
        """Number of members."""
        return sum(model.size for model in self._models)

    def starts_at_once(self, batch: int) -> int:
        """Starts that are forecast together with at most `batch` forecasts in a forward pass."""
        return max(1, batch // max(model.size for model in self._models))

    def forecast(
        self, starts: Sequence[tuple[int, int]], lead_hours: Sequence[float], batch: int, write: FieldWriter
    ) -> None:
        """Forecast from (start index, time index) pairs; at most `batch` forecasts are in a forward pass.

        With statistics or a calibration, all members of a start and lead time come before those of later lead times.
        """
        at_once = self.starts_at_once(batch)
        if self._calibration:
            calibrations = self._calibration.of(self.variables, lead_hours)
            seconds_N = to_seconds(self._states.hours[[t for _, t in starts]])
            days = dict(zip((place for place, _ in starts), day_numbers(seconds_N, self._states.calendar), strict=True))
            write = MemberCalibrator(write, calibrations, self.size, days).write
        for first in range(0, len(starts), at_once):
            some = starts[first : first + at_once]
            states_BCHW = np.stack([self._states.read(t) for _, t in some])
            hours_B = [float(self._states.hours[t]) for _, t in some]
            given = (self._models, states_BCHW, self._states.channels, hours_B, lead_hours, batch)
            if self._rollout:
                together = self._output.has_statistics or self._calibration is not None
                forecasts = rolled_out(*given, step_hours=self._rollout, together=together)
            else:
                forecasts = direct(*given)
            for b, lead, member, fields_OHW in forecasts:
                write(some[b][0], lead, member, cut(fields_OHW, self._domain.cells) if self._domain else fields_OHW)


def _model_members(
    checkpoints: Sequence[Checkpoint],
    forecasters: Sequence[StateForecaster],
    variables: Sequence[str],
    output: EnsembleOutputConfig,
) -> list[ModelMembers]:
    """The members of every model: `output.members` of a network with noise, one of another.

    Raises:
        UserError: members of networks without noise; statistics of a single member, or of variables that are not
            forecast.
    """
    found: list[ModelMembers] = []
    for checkpoint, forecaster in zip(checkpoints, forecasters, strict=True):
        noise = tuple(range(output.members)) if has_noise(checkpoint) else None
        places = tuple(list(forecaster.outputs).index(v) for v in variables)
        first = sum(model.size for model in found)
        found.append(ModelMembers(forecaster=forecaster, places=places, first=first, noise=noise))
    if output.members > 1 and all(model.noise is None for model in found):
        raise UserError(
            f"members = {output.members}: no model has noise (model.noise_dim is 0), so all its members would be "
            "equal; leave members out, or fine-tune with model.noise_dim above 0"
        )
    if output.has_statistics and sum(model.size for model in found) < 2:
        raise UserError(
            "statistics, quantiles and exceedance need two members or more: set members for a network with noise, or "
            "give several models"
        )
    if lacking := [name for name in output.exceedance if name not in variables]:
        raise UserError(
            f"exceedance: {', '.join(lacking)} is not among the variables that are written ({', '.join(variables)}); "
            "leave it out"
        )
    return found


def has_noise(checkpoint: Checkpoint) -> bool:
    """True for a network that takes a noise vector."""
    return checkpoint.metadata.config.noise_dim > 0


def model_grid(checkpoint: Checkpoint) -> Grid | None:
    """The global grid of a checkpoint; ClimaX's regular grid, or None, where it records no grid."""
    metadata = checkpoint.metadata
    if domain := domain_of(checkpoint):
        return domain.globe
    if metadata.training is not None:
        return metadata.training.cells()
    rows, columns = metadata.config.height, metadata.config.width
    return regular_grid(180 / rows) if columns == 2 * rows else None


def _common_outputs(
    checkpoints: Sequence[Checkpoint], states: InitialConditions, variables: Sequence[str] | None
) -> list[str]:
    sets = [{v for v in p.metadata.out_variables if v in states.channels} for p in checkpoints]
    return in_common(sets, in_registry_order(variables) if variables else None, "forecast", states.name)


def in_common(sets: Sequence[set[str]], wanted: Sequence[str] | None, verb: str, input_name: str) -> list[str]:
    """Variables that all models predict, or those `wanted` among them, in registry order.

    Raises:
        UserError: there is none, or a wanted variable that some model does not predict.
    """
    common = set.intersection(*sets)
    lacking = [v for v in wanted or [] if v not in common]
    if lacking or not common:
        there = ", ".join(in_registry_order(common)) or "no variable at all"
        but = f", but not {', '.join(lacking)}" if lacking else ""
        raise UserError(f"variables: the models can all {verb} {there} from {input_name}{but}; change the list")
    return in_registry_order(wanted or common)


def _check_climatology(climatology: ShardClimatology | RegionalClimatology, states: InitialConditions) -> None:
    if not climatology.grid.same_centres(states.grid):
        raise UserError(
            f"climatology: source {climatology.name} is on another grid than the input; pack it on the input's grid"
        )
    climatology.check_calendar(states.calendar)


def _check_shape(checkpoint: Checkpoint, states: InitialConditions) -> None:
    config, trained = checkpoint.metadata.config, checkpoint.metadata.training
    grid = trained.cells() if trained else None
    if states.grid.shape != (config.height, config.width):
        rows, columns = states.grid.shape
        raise UserError(
            f"{states.name} has {rows} × {columns} cells, the model {checkpoint.path} {config.height} × "
            f"{config.width}: pack or regrid the input to the model's grid (NetCDF and zarr: set regrid)"
        )
    if grid is not None:
        check_same_cells(states.grid, grid, states.name, f"the model {checkpoint.path}", "regrid the input")
