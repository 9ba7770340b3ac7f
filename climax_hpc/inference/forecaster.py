"""Trained models that forecast: weights and normalisation from a checkpoint, states in, fields out.

Dimensions: B samples · V input variables · I states and tendencies among them · G solar ones · S static ones ·
O output variables · H, W grid.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from climax_hpc.checkpoint.format import Checkpoint, check_task, load_checkpoint
from climax_hpc.checkpoint.regional import domain_of
from climax_hpc.config.inference import Precision
from climax_hpc.data.batch_builder import SourceBatchBuilder
from climax_hpc.data.batches import Batch, VariableProvider, choose_variables
from climax_hpc.data.dataset import check_grids
from climax_hpc.data.device_copy import to_device
from climax_hpc.data.normalisation import Normalisation
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.sampler import Sample
from climax_hpc.data.solar_inputs import SolarInputs
from climax_hpc.errors import UserError
from climax_hpc.fields.variables import lookup
from climax_hpc.inference.initial_conditions import InitialConditions
from climax_hpc.inference.precision import load_network
from climax_hpc.model.band import RowBand, share
from climax_hpc.model.indices import index_tensor
from climax_hpc.model.output_modes import at_lead, forecast_from_network
from climax_hpc.model.rollout import check_closed, roll_out
from climax_hpc.utils.formatting import whole_steps

Array = NDArray[np.float64]


class CheckpointNetwork:
    """The network of a checkpoint on a device, wrapped in the damped-persistence skip of the `anomaly` mode."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        inputs: Sequence[str],
        outputs: Sequence[str],
        device: torch.device,
        *,
        precision: Precision = "float32",
        skip: bool = True,
        band: RowBand | None = None,
    ) -> None:
        """Build the network.

        Args:
            skip: add the skip of the `anomaly` mode; False returns the bare network output in both modes.
            band: the rows that the fields hold; all ranks of the group call this together, each with its own.
        """
        self.inputs, self.outputs, self.device = tuple(inputs), tuple(outputs), device
        self._model = load_network(checkpoint, device, precision)
        if band is not None:
            share(self._model, band)
        self._skip = [self.inputs.index(name) for name in self.outputs] if skip else []
        self._tables = _lead_tables(checkpoint.metadata.normalisation, self.outputs, device) if skip else None

    @torch.inference_mode()
    def __call__(self, x_BVHW: Tensor, lead_hours_B: Tensor) -> Tensor:
        """Normalised forecasts (B, O, H, W): z-scores (`full`) or anomalies (`anomaly`)."""
        net_BOHW = self._model(x_BVHW, lead_hours_B, self.inputs, self.outputs).to(x_BVHW.dtype)
        r_BO = s_BO = None
        if self._tables is not None:
            leads_T, r_OT, s_OT = self._tables
            r_BO, s_BO = (at_lead(table_OT, leads_T, lead_hours_B) for table_OT in (r_OT, s_OT))
        skip_O = index_tensor(self._skip, x_BVHW.device)
        return forecast_from_network(net_BOHW, x_BVHW.index_select(1, skip_O), r_BO, s_BO)


def _lead_tables(
    norm: Normalisation, outputs: Sequence[str], device: torch.device
) -> tuple[Tensor, Tensor, Tensor] | None:
    if norm.mode != "anomaly":
        return None
    r_OT, s_OT = (torch.tensor([table[v] for v in outputs], device=device) for table in (norm.r, norm.s))
    return torch.tensor(norm.lead_hours, dtype=torch.float32, device=device), r_OT, s_OT


class Forecaster:
    """Forecasts of one packed source by one checkpoint, in the z-scores of its shards, as evaluation scores them."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        source: PackedSource,
        *,
        variables: Sequence[str] | None,
        device: torch.device,
        precision: Precision = "float32",
        rollout_hours: float | None = None,
        band: RowBand | None = None,
    ) -> None:
        """Build the model for a source; `variables` limits the outputs.

        `rollout_hours`: step of an iterative roll-out [h]; None forecasts every lead time in one pass. `band`: the rows
        that this rank reads and computes; all ranks of the group call `forecast` together.

        Raises:
            UserError: the source has another grid, shares no variable with the model, or cannot be rolled out.
        """
        metadata = checkpoint.metadata
        self.domain, self.window = domain_of(checkpoint), metadata.training.window if metadata.training else None
        if self.domain is None:
            cells = metadata.training.cells() if metadata.training else None
            check_grids([source], metadata.config.height, metadata.config.width, cells, f"the model {checkpoint.path}")
        self.inputs, every_output = choose(checkpoint, source, None if rollout_hours else variables)
        self.variables = tuple(v for v in every_output if variables is None or v in variables)
        self._places = [every_output.index(v) for v in self.variables]
        self._network = CheckpointNetwork(checkpoint, self.inputs, every_output, device, precision=precision, band=band)
        self._crop = self.domain.crop(source.grid, f"source {source.name}") if self.domain else None
        self._builder = SourceBatchBuilder(
            source,
            metadata.normalisation,
            inputs=self.inputs,
            outputs=self.variables,
            device=device,
            crop=self._crop,
            band=band,
            window=self.window,
        )
        self._source, self._band = source, band
        self._step = self._rollout_steps(rollout_hours, str(checkpoint.path))

    def _rollout_steps(self, hours: float | None, name: str) -> int | None:
        """Time steps of the source per roll-out step; None without a roll-out."""
        if hours is None:
            return None
        steps = whole_steps(hours, self._source.step_hours)
        if steps is None:
            raise UserError(
                f"rollout_hours: {hours:g} h is not a multiple of the {self._source.step_hours:g} h step of source "
                f"{self._source.name}"
            )
        if self.window:
            raise UserError(
                f"rollout_hours: {name} forecasts means over {self.window.hours:g} h, which cannot be rolled out"
            )
        check_closed(self.inputs, self._network.outputs, "rollout_hours", name, hours)
        return steps

    @classmethod
    def load(
        cls,
        path: str | Path,
        source: PackedSource,
        *,
        variables: Sequence[str] | None = None,
        device: torch.device | None = None,
    ) -> "Forecaster":
        """Load a verified run or checkpoint folder."""
        return cls(load_checkpoint(path), source, variables=variables, device=device or torch.device("cpu"))

    @torch.inference_mode()
    def forecast(self, samples: Sequence[Sample]) -> Tensor:
        """Forecasts (B, O, H, W) for (time, lead) samples, in the source's z-scores (value - mean) / std.

        In `anomaly` mode the climatology of the valid time is added. A regional model returns NaN outside its region.
        """
        batch = self._builder.build_batch(samples)
        y_BOHW = self._network(batch.x_BVHW, batch.lead_hours_B) if self._step is None else self._rolled(batch, samples)
        y_BOHW = y_BOHW.index_select(1, index_tensor(self._places, y_BOHW.device))
        packed_BOHW = self._builder.to_shard_z_scores(y_BOHW, samples)
        return self._on_the_source(packed_BOHW if self._band is None else self._band.whole(packed_BOHW))

    def _rolled(self, batch: Batch, samples: Sequence[Sample]) -> Tensor:
        """Normalised forecasts of a roll-out."""
        assert self._step is not None
        numbers = [s.lead_steps // self._step for s in samples]
        lead_hours_B = torch.full_like(batch.lead_hours_B, self._step * self._source.step_hours)
        states = roll_out(
            lambda x_BVHW: self._network(x_BVHW, lead_hours_B),
            batch.x_BVHW,
            self.inputs,
            self._network.outputs,
            max(numbers),
            batch.change_scale_T11,
            self._builder.solar_steps(samples, self._step),
        )
        wanted: dict[int, Tensor] = {}
        for number, y_BOHW in enumerate(states, start=1):
            wanted |= {b: y_BOHW[b] for b, last in enumerate(numbers) if last == number}
        return torch.stack([wanted[b] for b in range(len(samples))])

    def _on_the_source(self, y_BOHW: Tensor) -> Tensor:
        """Forecasts on the grid of the source; NaN outside the region."""
        if self.domain is None or self._crop is None:
            return y_BOHW
        (rows, columns), crop = self.domain.cells, self._crop
        from_rows, from_columns, to_rows, to_columns = (
            index_tensor(places.tolist(), y_BOHW.device)
            for places in (rows, columns, crop.rows[rows], crop.columns[columns])
        )
        whole_BOHW = y_BOHW.new_full((*y_BOHW.shape[:2], *self._source.grid.shape), torch.nan)
        whole_BOHW[:, :, to_rows[:, None], to_columns] = y_BOHW[:, :, from_rows[:, None], from_columns]
        return whole_BOHW


def choose(
    checkpoint: Checkpoint, holdings: VariableProvider, variables: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Inputs (static last) and outputs: variables of the checkpoint that `holdings` has or that are computed.

    Raises:
        UserError: the checkpoint is of another task, or no variable is left to forecast.
    """
    metadata = checkpoint.metadata
    check_task(checkpoint, "forecast")
    wanted = [v for v in metadata.out_variables if variables is None or v in variables]
    inputs, outputs = choose_variables(holdings, metadata.config.variables, metadata.in_variables, wanted)
    return tuple(inputs), tuple(outputs)


class ClimatologyProvider(Protocol):
    """Climatology by date, for example `climax_hpc.inference.initial_conditions.ShardClimatology`."""

    @property
    def channels(self) -> Sequence[str]:
        """Registry names."""
        ...

    def at(self, hours: float, calendar: str) -> Array:
        """Fields (C, H, W) in physical units for a time [hours since 1850]."""
        ...


class StateForecaster:
    """Forecasts from states in physical units at any lead time, for `predict` and the Python API."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        holdings: InitialConditions,
        *,
        climatology: ClimatologyProvider | None,
        calendar: str,
        variables: Sequence[str] | None,
        device: torch.device,
        precision: Precision = "float32",
        band: RowBand | None = None,
    ) -> None:
        """Build the model for states with these channels and static fields (H, W).

        `band`: the rows that this rank computes; all ranks of the group call `step` together, with the same states.

        Raises:
            UserError: no common variable, or an `anomaly` model without a climatology of all its inputs.
        """
        norm = checkpoint.metadata.normalisation
        self.inputs, self.outputs = choose(checkpoint, holdings, variables)
        self.dynamic = tuple(v for v in self.inputs if lookup(v).has_anomalies)
        self._climatology = _anomaly_climatology(checkpoint, self.dynamic, climatology)
        self._calendar, self._band = calendar, band
        self._network = CheckpointNetwork(checkpoint, self.inputs, self.outputs, device, precision=precision, band=band)
        scales = norm.anomaly_std if self._climatology else norm.std
        self._std_I11 = np.array([scales[v] for v in self.dynamic])[:, None, None]
        self._mean_I11 = np.array([0.0 if self._climatology else norm.mean[v] for v in self.dynamic])[:, None, None]
        trained = checkpoint.metadata.training
        self._window_offsets = trained.window.offset_hours if trained and trained.window else [0.0]
        self._out = [self.dynamic.index(v) for v in self.outputs]
        static = [(holdings.static[v] - norm.mean[v]) / norm.std[v] for v in self.inputs if lookup(v).static]
        self._static = [np.asarray(field, np.float64) for field in static]
        self._solar = SolarInputs(
            [v for v in self.inputs if lookup(v).solar],
            holdings.grid,
            calendar,
            norm,
            torch.device("cpu"),
            padding_HW=np.isnan(holdings.static["latitude"]),
        )

    def step(self, state_BIHW: Array, hours_B: Sequence[float], lead_hours_B: Sequence[float]) -> Array:
        """Fields (B, O, H, W) in physical units, `lead_hours_B` after states of the dynamic inputs at `hours_B`.

        Raises:
            UserError: the climatology lacks a time, or a forecast is not finite where the climatology is.
        """
        normal_BIHW = self._normal(hours_B)
        x_BIHW = (state_BIHW - normal_BIHW - self._mean_I11) / self._std_I11
        static_BSHW = [np.broadcast_to(field, (len(x_BIHW), 1, *field.shape)) for field in self._static]
        solar_BGHW = self._solar(np.array(hours_B), np.array(lead_hours_B)).numpy()
        x_BVHW = np.concatenate([x_BIHW, solar_BGHW, *static_BSHW], axis=1).astype(np.float32)
        device = self._network.device
        leads = to_device(np.array(lead_hours_B, np.float32), device)
        y_BOHW = self._forecast(to_device(x_BVHW, device), leads).cpu().numpy().astype(np.float64)
        later = [hours + lead for hours, lead in zip(hours_B, lead_hours_B, strict=True)]
        of_window = [self._normal([hours + offset for hours in later]) for offset in self._window_offsets]
        offset_BOHW = (np.mean(of_window, axis=0) + self._mean_I11)[:, self._out]
        physical_BOHW = y_BOHW * self._std_I11[self._out] + offset_BOHW
        self._check_finite(physical_BOHW, np.broadcast_to(offset_BOHW, physical_BOHW.shape))
        return physical_BOHW

    @torch.inference_mode()
    def _forecast(self, x_BVHW: Tensor, lead_hours_B: Tensor) -> Tensor:
        if self._band is None:
            return self._network(x_BVHW, lead_hours_B)
        return self._band.whole(self._network(self._band.of_whole(x_BVHW).contiguous(), lead_hours_B))

    def _normal(self, hours_B: Sequence[float]) -> Array:
        """Climatology (B, I, H, W) of these times; 0 in `full` mode."""
        if self._climatology is None:
            return np.zeros((1, 1, 1, 1))
        climatology, places = self._climatology
        return np.stack([climatology.at(hours, self._calendar)[places] for hours in hours_B])

    def _check_finite(self, forecast_BOHW: Array, offset_BOHW: Array) -> None:
        bad_O = (~np.isfinite(forecast_BOHW) & np.isfinite(offset_BOHW)).any(axis=(0, 2, 3))
        if bad_O.any():
            raise UserError(
                f"the forecast of {self.outputs[int(np.argmax(bad_O))]} is not finite: either the training of this "
                "checkpoint diverged, or the input is not in the units that it states"
            )


def _anomaly_climatology(
    checkpoint: Checkpoint, dynamic: Sequence[str], climatology: ClimatologyProvider | None
) -> tuple[ClimatologyProvider, list[int]] | None:
    """The climatology and the positions of the dynamic inputs in it; None in `full` mode.

    Raises:
        UserError: it is missing, or lacks an input.
    """
    if checkpoint.metadata.normalisation.mode != "anomaly":
        return None
    if climatology is None:
        raise UserError(
            f"checkpoint {checkpoint.path} has output mode `anomaly`, which needs the climatology of the input: set "
            "climatology to the folder of the packed data set that holds it"
        )
    lacking = [v for v in dynamic if v not in climatology.channels]
    if lacking:
        raise UserError(
            f"climatology: it lacks {', '.join(lacking)}, an input of the anomaly model {checkpoint.path}; give the "
            "packed data set of a source that has it, or leave the variable out of the input"
        )
    return climatology, [list(climatology.channels).index(v) for v in dynamic]
