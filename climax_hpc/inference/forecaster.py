"""Trained models that forecast: weights and normalisation from a checkpoint, states in, fields out.

Dimensions: B samples · M members · n = B·M, the members of a sample adjacent · V input variables · I states and
tendencies among them · G solar ones · S static ones · O output variables · H, W grid.
"""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from climax_hpc.checkpoint.format import Checkpoint, load_checkpoint
from climax_hpc.checkpoint.regional import domain_of
from climax_hpc.config.inference import Precision
from climax_hpc.data.batch_builder import SourceBatchBuilder
from climax_hpc.data.batches import Batch
from climax_hpc.data.dataset import check_grids
from climax_hpc.data.device_copy import to_device
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.sampler import Sample
from climax_hpc.data.solar_inputs import SolarInputs
from climax_hpc.errors import UserError
from climax_hpc.fields.variables import lookup
from climax_hpc.inference.checkpoint_network import CheckpointNetwork, choose
from climax_hpc.inference.initial_conditions import InitialConditions
from climax_hpc.model.band import RowBand
from climax_hpc.model.indices import index_tensor
from climax_hpc.model.noise import of_states
from climax_hpc.model.rollout import check_closed, roll_out
from climax_hpc.utils.formatting import whole_steps

Array = NDArray[np.float64]


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
        members: Sequence[int] | None = None,
        noise_seed: int = 0,
    ) -> None:
        """Build the model for a source; `variables` limits the outputs.

        Args:
            rollout_hours: step of an iterative roll-out [h]; None forecasts every lead time in one pass.
            band: the rows that this rank reads and computes; all ranks of the group call `forecast` together.
            members: numbers of the members of a network with noise, from 0; None: member 0. Others have one member.
            noise_seed: of the noise of all members.

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
        self._network = CheckpointNetwork(
            checkpoint, self.inputs, every_output, device, precision=precision, band=band, noise_seed=noise_seed
        )
        self.members = tuple(members or (0,)) if self._network.noise_dim else (0,)
        """Numbers of the members that are forecast."""
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

    def input_fields(self, samples: Sequence[Sample]) -> Tensor:
        """Input (B, V, H, W) of samples in the model's normalisation, variables as `inputs`; NaN is missing."""
        return self._builder.build_batch(samples).x_BVHW

    def forecast(self, samples: Sequence[Sample], perturbation_BVHW: Tensor | None = None) -> Tensor:
        """Forecasts (B, O, H, W) for (time, lead) samples: the mean over the members, as in `forecast_members`."""
        y_BMOHW = self.forecast_members(samples, perturbation_BVHW)
        return y_BMOHW[:, 0] if y_BMOHW.shape[1] == 1 else y_BMOHW.mean(1)

    @torch.inference_mode()
    def forecast_members(self, samples: Sequence[Sample], perturbation_BVHW: Tensor | None = None) -> Tensor:
        """Forecasts (B, M, O, H, W) for (time, lead) samples, in the source's z-scores (value - mean) / std.

        In `anomaly` mode the climatology of the valid time is added. A regional model returns NaN outside its region.
        `perturbation_BVHW` is added to the input at the start, as `input_fields` gives it.
        """
        batch = self._builder.build_batch(samples).perturbed(perturbation_BVHW)
        hours_B = self._source.hours[[s.time_index for s in samples]].tolist()
        if self._step is None:
            y_nOHW = self._network(batch.x_BVHW, batch.lead_hours_B, self._network.noise(hours_B, self.members))
        else:
            y_nOHW = self._rolled(batch, samples, hours_B)
        y_nOHW = y_nOHW.index_select(1, index_tensor(self._places, y_nOHW.device))
        y_nOHW = self._builder.to_shard_z_scores(y_nOHW, samples)
        y_nOHW = self._on_the_source(y_nOHW if self._band is None else self._band.whole(y_nOHW))
        return y_nOHW.unflatten(0, (len(samples), len(self.members)))

    def _rolled(self, batch: Batch, samples: Sequence[Sample], hours_B: Sequence[float]) -> Tensor:
        """Normalised forecasts (B·M, O, H, W) of a roll-out."""
        assert self._step is not None
        numbers = [s.lead_steps // self._step for s in samples]
        lead_hours_B = torch.full_like(batch.lead_hours_B, self._step * self._source.step_hours)
        noises_BMZ = (self._network.noise(hours_B, self.members, step) for step in count())
        states = roll_out(
            lambda x_BVHW: self._network(*of_states(x_BVHW, lead_hours_B, next(noises_BMZ))),
            batch.x_BVHW,
            self.inputs,
            self._network.outputs,
            max(numbers),
            batch.change_scale_T11,
            self._builder.solar_steps(samples, self._step),
        )
        wanted: dict[int, Tensor] = {}
        for number, y_nOHW in enumerate(states, start=1):
            y_BMOHW = y_nOHW.unflatten(0, (len(samples), -1))
            wanted |= {b: y_BMOHW[b] for b, last in enumerate(numbers) if last == number}
        return torch.cat([wanted[b] for b in range(len(samples))])

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
        noise_seed: int = 0,
    ) -> None:
        """Build the model for states with these channels and static fields (H, W).

        `band`: the rows that this rank computes; all ranks of the group call `step` together, with the same states.
        `noise_seed`: of the noise of all members.

        Raises:
            UserError: no common variable, or an `anomaly` model without a climatology of all its inputs.
        """
        norm = checkpoint.metadata.normalisation
        self.inputs, self.outputs = choose(checkpoint, holdings, variables)
        self.dynamic = tuple(v for v in self.inputs if lookup(v).has_anomalies)
        self._climatology = _anomaly_climatology(checkpoint, self.dynamic, climatology)
        self._calendar, self._band = calendar, band
        self._network = CheckpointNetwork(
            checkpoint, self.inputs, self.outputs, device, precision=precision, band=band, noise_seed=noise_seed
        )
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

    def step(
        self,
        state_BIHW: Array,
        hours_B: Sequence[float],
        lead_hours_B: Sequence[float],
        members: Sequence[int] | None = None,
        *,
        number: int = 0,
    ) -> Array:
        """Fields (B·M, O, H, W) in physical units, `lead_hours_B` after states of the dynamic inputs at `hours_B`.

        Args:
            state_BIHW: one state for all members of a sample (B, I, H, W); or one for each (B·M, I, H, W), as in a
                roll-out after its first step.
            hours_B: times of the states [hours since 1850].
            lead_hours_B: lead times [h].
            members: numbers of the members of a network with noise, from 0; None: member 0, or a deterministic network.
            number: of the step in a roll-out, from 0. Each has noise of its own, which depends on the start.

        Raises:
            UserError: members of a deterministic network, the climatology lacks a time, or a forecast is not finite
                where the climatology is.
        """
        members = self._members(members)
        own = len(state_BIHW) // len(hours_B)
        x_BIHW = (state_BIHW - _each(self._normal(hours_B), own) - self._mean_I11) / self._std_I11
        static_BSHW = [np.broadcast_to(field, (len(x_BIHW), 1, *field.shape)) for field in self._static]
        solar_BGHW = np.repeat(self._solar(np.array(hours_B), np.array(lead_hours_B)).numpy(), own, axis=0)
        x_BVHW = np.concatenate([x_BIHW, solar_BGHW, *static_BSHW], axis=1).astype(np.float32)
        device = self._network.device
        leads = to_device(np.array(lead_hours_B, np.float32), device)
        starts_B = [hours - number * lead for hours, lead in zip(hours_B, lead_hours_B, strict=True)]
        noise_BMZ = self._network.noise(starts_B, members, number)
        y_nOHW = self._forecast(to_device(x_BVHW, device), leads, noise_BMZ).cpu().numpy().astype(np.float64)
        later = [hours + lead for hours, lead in zip(hours_B, lead_hours_B, strict=True)]
        of_window = [self._normal([hours + offset for hours in later]) for offset in self._window_offsets]
        offset_nOHW = _each((np.mean(of_window, axis=0) + self._mean_I11)[:, self._out], len(members))
        physical_nOHW = y_nOHW * self._std_I11[self._out] + offset_nOHW
        self._check_finite(physical_nOHW, np.broadcast_to(offset_nOHW, physical_nOHW.shape))
        return physical_nOHW

    @torch.inference_mode()
    def _forecast(self, x_BVHW: Tensor, lead_hours_B: Tensor, noise_BMZ: Tensor | None) -> Tensor:
        if self._band is None:
            return self._network(*of_states(x_BVHW, lead_hours_B, noise_BMZ))
        own = self._band.of_whole(x_BVHW).contiguous()
        return self._band.whole(self._network(*of_states(own, lead_hours_B, noise_BMZ)))

    def _members(self, wanted: Sequence[int] | None) -> tuple[int, ...]:
        if wanted is not None and len(wanted) > 1 and not self._network.noise_dim:
            raise UserError(
                "members: a network without noise has one forecast; ask for one, or train it with model.noise_dim "
                "(docs/guides/ensembles.md)"
            )
        return tuple(wanted or (0,))

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


def _each(fields_B: Array, members: int) -> Array:
    """Fields of every member; those that are the same for all samples stay as they are."""
    return fields_B if len(fields_B) == 1 else np.repeat(fields_B, members, axis=0)


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
