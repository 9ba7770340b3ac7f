"""Builds the batches of one source: z-scores as read -> fields in the model's normalisation, on the device.

Dimensions: B samples · T input times, oldest first · K targets of a roll-out · C channels that are read · V input
variables · O output variables · G solar inputs · S static fields · H, W grid, or the rows and columns of a region.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from climax_hpc.data.augmentation import Augmentation
from climax_hpc.data.batches import Batch
from climax_hpc.data.device_copy import to_device
from climax_hpc.data.device_crop import DeviceCrop, cells_of, rows_of
from climax_hpc.data.field_part import FieldPart
from climax_hpc.data.normalisation import Normalisation
from climax_hpc.data.normalised_fields import BuiltFields, ChosenChannels, FieldNormaliser, Run, affine, runs_of
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.prefetch import read_now
from climax_hpc.data.raw_batch import RawBatch, SourceBatchSpec
from climax_hpc.data.reused_memory import memory_on
from climax_hpc.data.sampler import MicroBatch, Sample
from climax_hpc.data.surroundings import Surroundings
from climax_hpc.errors import UserError
from climax_hpc.fields.averaging_window import Window
from climax_hpc.fields.regions import Crop
from climax_hpc.fields.variables import lookup
from climax_hpc.model.band import RowBand
from climax_hpc.model.indices import index_tensor
from climax_hpc.model.noise import of_members
from climax_hpc.model.output_modes import at_lead


class SourceBatchBuilder:
    """Builds the batches of one source; a `climax_hpc.data.batches.BatchBuilder`.

    Args:
        source: where the samples come from.
        normalisation: that of the model.
        inputs: variables of the model's input: states, tendencies, solar ones, static ones.
        outputs: variables to forecast.
        device: where the batches are built.
        random_roll: shift every sample by a random longitude.
        random_flip: mirror half of the samples about the equator.
        history_steps: input steps before that of the sample; they fill `Batch.x_BTVHW`.
        crop: the region to cut out. Of shards in bands, only those that hold its rows are read.
        band: the rows of the grid, or of the region, that this rank owns: batches hold these, and of shards in bands
            only those that hold them are read, or in mirror images those that they come from. None: all.
        counted_HW: True in the cells of the targets that count, of the whole grid or region; the others are set to
            missing. None: all count.
        window: targets are means over this window, from the lead time on; None: states at the lead time.
        rollout_steps: targets at this many multiples of the lead time; more than one fill `Batch.y_BKOHW`. A
            micro-batch may have fewer.
        variable_weight_O: weights of the outputs in the loss, on the device; None: all count alike.

    Raises:
        UserError: augmentation of a region.
    """

    def __init__(
        self,
        source: PackedSource,
        normalisation: Normalisation,
        *,
        inputs: Sequence[str],
        outputs: Sequence[str],
        device: torch.device,
        random_roll: bool = False,
        random_flip: bool = False,
        history_steps: int = 0,
        crop: Crop | None = None,
        band: RowBand | None = None,
        counted_HW: NDArray[np.bool_] | None = None,
        window: Window | None = None,
        rollout_steps: int = 1,
        variable_weight_O: Tensor | None = None,
    ) -> None:
        if crop is not None and (random_roll or random_flip):
            raise UserError("data.random_roll and data.random_flip need a global grid: set them to false for a region")
        self._region, self._flip = crop, random_flip
        crop, mirrored = cells_of(source.grid, crop, band, random_flip)
        self._source, self._normalisation, self.device = source, normalisation, device
        self._variable_weight_O, self._band = variable_weight_O, band
        tendencies = [v for v in inputs if lookup(v).tendency_of]
        computed = any(lookup(v).is_computed for v in inputs)
        assert not (computed and history_steps), "a climate projection has no tendencies and no solar inputs"
        dynamic = [v for v in inputs if lookup(v).can_be_forecast]
        self._changing = [str(lookup(v).tendency_of) for v in tendencies]
        names = [*dynamic, *self._changing, *outputs]
        part = source.part_of(names, rows_of(crop))
        self._names = [source.channels[c] for c in part.of(source.chunk_shape)[0]]
        self._crop = None if crop is None else DeviceCrop(crop, device)
        self._uncounted_HW = self._uncounted(counted_HW)
        self.spec: SourceBatchSpec = SourceBatchSpec(
            source=source,
            history_steps=1 if tendencies else history_steps,
            history_stride=(source.tendency_steps or 1) if tendencies else 1,
            climatology=normalisation.mode == "anomaly",
            window=window.over(source.step_hours, source.name) if window else None,
            rollout_steps=rollout_steps,
            part=part,
            mirrored_part=source.part_of(names, rows_of(mirrored)) if mirrored else None,
        )
        """What is read of the source for a micro-batch."""
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self._in, self._out, self._changes = (
            ChosenChannels(some, self._names, device) for some in (dynamic, outputs, self._changing)
        )
        direct = not tendencies and not history_steps and set(outputs) <= set(dynamic)
        self._skip = [dynamic.index(v) for v in outputs] if direct else None
        """Places of the outputs among the inputs; None where the batch needs more of the inputs than their channels."""
        self._history = history_steps > 0
        self._change_scale_T11 = self._tensor(self._change_scale(tendencies))[:, None, None]
        self._around = Surroundings(source, normalisation, inputs, device, crop=crop, mirrored=mirrored)
        self._augment = self._augmentation(random_roll, random_flip) if random_roll or random_flip else None
        self._fields = self._normaliser()
        self._memory = memory_on(device)
        self._tables = self._lead_tables() if normalisation.mode == "anomaly" else None

    def parts_read(self, places: Iterable[int]) -> list[FieldPart]:
        """The parts of a time step that ranks with the bands at these places read for their batches."""
        if self._band is None:
            return [self.spec.part]
        bands = [replace(self._band, place=place) for place in places]
        crops = [c for band in bands for c in cells_of(self._source.grid, self._region, band, self._flip) if c]
        return [replace(self.spec.part, rows=rows_of(crop)) for crop in crops]

    def read_from(self, copied: PackedSource) -> None:
        """Read from a copy of the source that holds at least the parts that are read."""
        self.spec = replace(self.spec, source=copied)

    def assemble(self, micro_batch: MicroBatch, raw: RawBatch) -> Batch:
        """Batch of a micro-batch that was read; it shares no memory with `raw`."""
        fields = (self.field_blocks if self.device.type == "cpu" else self.whole_fields)(micro_batch, raw)
        lead_hours_B = to_device(self._lead_hours(micro_batch.samples).astype(np.float32), self.device)
        r_BO = s_BO = None
        if self._tables is not None:
            leads_T, r_OT, s_OT = self._tables
            r_BO, s_BO = at_lead(r_OT, leads_T, lead_hours_B), at_lead(s_OT, leads_T, lead_hours_B)
        y_BKOHW = fields.y_BOHW if self.spec.rollout_steps > 1 else None
        return Batch(
            in_variables=self.inputs,
            out_variables=self.outputs,
            x_BVHW=fields.x_BVHW,
            x_BTVHW=fields.x_BTVHW,
            lead_hours_B=lead_hours_B,
            y_BOHW=fields.y_BOHW if y_BKOHW is None else y_BKOHW[:, 0],
            skip_BOHW=fields.skip_BOHW,
            r_BO=r_BO,
            s_BO=s_BO,
            y_BKOHW=y_BKOHW,
            change_scale_T11=self._change_scale_T11 if self._changing else None,
            solar_BKGHW=fields.solar_BKGHW if self._around.solar.names and y_BKOHW is not None else None,
            variable_weight_O=self._variable_weight_O,
            band=self._band,
            noise_keys=micro_batch.noise_keys,
        )

    def whole_fields(self, micro_batch: MicroBatch, raw: RawBatch) -> BuiltFields:
        """The fields of a batch by few operations on whole micro-batches."""
        x_BTCHW = self._fields.whole(raw.x_BTCHW, raw.x_climatology_BTCHW)
        y_BCHW = self._fields.whole(raw.y_BCHW, raw.y_climatology_BCHW)
        if self._uncounted_HW is not None:
            y_BCHW.masked_fill_(self._uncounted_HW, torch.nan)
        y_BCHW = self._by_step(y_BCHW, micro_batch)
        solar_BKGHW, static_BSHW = self._surroundings_of(micro_batch)
        if self._augment:
            x_BTCHW, y_BCHW, solar_BKGHW, static_BSHW = self._augment(
                micro_batch.key, x_BTCHW, y_BCHW, solar_BKGHW, static_BSHW
            )
        return self._joined(x_BTCHW, self._out.of(y_BCHW), solar_BKGHW, static_BSHW)

    def field_blocks(self, micro_batch: MicroBatch, raw: RawBatch) -> BuiltFields:
        """The same bits, written block by block to the places where the batch has them."""
        solar_BKGHW, static_BSHW = self._surroundings_of(micro_batch)
        moves_B = None
        if self._augment:
            moves_B = self._augment.moves(micro_batch.key, len(micro_batch.samples), raw.y_BCHW.shape[-1])
            solar_BKGHW, static_BSHW = self._augment.move_surroundings(moves_B, solar_BKGHW, static_BSHW)

        def write(
            out: Tensor, z: Tensor, climatology: Tensor | None, runs: Sequence[Run], missing_HW: Tensor | None = None
        ) -> Tensor:
            moves_N = moves_B and [move for move in moves_B for _ in range(len(z) // len(moves_B))]
            self._fields.write(out, z, climatology, runs, moves_N=moves_N, missing_HW=missing_HW)
            return out

        (samples, times), (rows, columns) = raw.x_BTCHW.shape[:2], self._around.shape
        y_BCHW = write(
            self._memory.empty((len(raw.y_BCHW), len(self.outputs), rows, columns)),
            raw.y_BCHW, raw.y_climatology_BCHW, self._out.runs, self._uncounted_HW,
        )  # fmt: skip
        y_BOHW = self._by_step(y_BCHW, micro_batch)
        x_NCHW, climatology = raw.x_BTCHW.flatten(0, 1), raw.x_climatology_BTCHW
        x_climatology = None if climatology is None else climatology.flatten(0, 1)
        if self._skip is None:
            x_NCHW = write(
                self._memory.empty((samples * times, len(self._names), rows, columns)), x_NCHW, x_climatology,
                runs_of(range(len(self._names))),
            )  # fmt: skip
            return self._joined(x_NCHW.unflatten(0, (samples, times)), y_BOHW, solar_BKGHW, static_BSHW)
        x_BVHW = self._memory.empty((samples, len(self.inputs), rows, columns))
        dynamic = len(self._in)
        write(x_BVHW[:, :dynamic], x_NCHW, x_climatology, self._in.runs)
        x_BVHW[:, dynamic:].copy_(torch.cat([solar_BKGHW[:, 0], static_BSHW], dim=1))
        skip_BOHW = None if self._tables is None else self._chosen(x_BVHW, self._skip)
        return BuiltFields(x_BVHW=x_BVHW, x_BTVHW=None, y_BOHW=y_BOHW, skip_BOHW=skip_BOHW, solar_BKGHW=solar_BKGHW)

    def _joined(self, x_BTCHW: Tensor, y_BOHW: Tensor, solar_BKGHW: Tensor, static_BSHW: Tensor) -> BuiltFields:
        """From all channels of the inputs that were read."""
        now_BCHW, x_BTVHW = x_BTCHW[:, -1], None
        parts = [self._in.of(now_BCHW), *self._tendencies_of(x_BTCHW), solar_BKGHW[:, 0], static_BSHW]
        if self._history:
            static_BTSHW = static_BSHW[:, None].expand(-1, x_BTCHW.shape[1], -1, -1, -1)
            x_BTVHW = torch.cat([x_BTCHW[:, :, self._in.index], static_BTSHW], dim=2)
        return BuiltFields(
            x_BVHW=torch.cat(
                parts, dim=1, out=self._memory.empty((len(now_BCHW), len(self.inputs), *now_BCHW.shape[2:]))
            ),
            x_BTVHW=x_BTVHW,
            y_BOHW=y_BOHW,
            skip_BOHW=None if self._tables is None else self._out.of(now_BCHW),
            solar_BKGHW=solar_BKGHW,
        )

    def _chosen(self, x_BVHW: Tensor, places: Sequence[int]) -> Tensor:
        """These channels; a view where they are neighbours."""
        first, count = places[0], len(places)
        if list(places) == list(range(first, first + count)):
            return x_BVHW[:, first : first + count]
        out = self._memory.empty((len(x_BVHW), count, *x_BVHW.shape[2:]))
        return torch.index_select(x_BVHW, 1, index_tensor(places, self.device), out=out)

    def _by_step(self, y_BCHW: Tensor, micro_batch: MicroBatch) -> Tensor:
        """Targets (B·K, …) of a roll-out as (B, K, …)."""
        steps = self.spec.rollout_steps
        return y_BCHW if steps == 1 else y_BCHW.unflatten(0, (-1, micro_batch.rollout_steps or steps))

    def build_batch(self, samples: Sequence[Sample]) -> Batch:
        """One batch of the given samples, read now and without augmentation: for evaluation and prediction."""
        micro_batch = MicroBatch(source=self._source.name, samples=tuple(samples), key=0)
        return self.assemble(micro_batch, read_now(self.spec, samples, self.device))

    def solar_steps(self, samples: Sequence[Sample], step: int) -> Callable[[int], Tensor] | None:
        """Solar inputs (B, G, H, W) of step 0, 1, … of a roll-out from these samples; None if there are none.

        `step`: time steps of the source per step of the roll-out.
        """
        if not self._around.solar.names:
            return None
        lead_hours_B = np.full(len(samples), step * self._source.step_hours)
        return lambda number: self._around.solar(self._hours(samples) + number * lead_hours_B, lead_hours_B)

    def to_shard_z_scores(self, y_BOHW: Tensor, samples: Sequence[Sample]) -> Tensor:
        """Forecasts of these samples, or of their M members, from the model's normalisation to the shards' z-scores."""
        z_BOHW = (y_BOHW - self._out.of(self._fields.shift_C11)) / self._out.of(self._fields.scale_C11)
        if self._normalisation.mode == "anomaly":
            valid = [s.time_index + s.lead_steps for s in samples]
            read, window = partial(self._source.read_climatology, part=self.spec.part), self.spec.window
            fields = [window.mean(read, t) if window else read(t) for t in valid]
            climatology_BOHW = self._out.of(self._cropped(to_device(np.stack(fields), self.device)))
            z_BOHW = z_BOHW + of_members(climatology_BOHW, len(z_BOHW) // len(samples))
        return z_BOHW

    def _tendencies_of(self, x_BTCHW: Tensor) -> list[Tensor]:
        """Changes from the first input time to the last, in units of their own spread; none where none is asked for."""
        if not self._changing:
            return []
        change_BCHW = x_BTCHW[:, -1] - x_BTCHW[:, 0]
        return [change_BCHW.index_select(1, self._changes.index) * self._change_scale_T11]

    def _change_scale(self, tendencies: Sequence[str]) -> list[float]:
        """From the normalisation of the states to that of their tendencies."""
        norm = self._normalisation
        table = norm.anomaly_std if norm.mode == "anomaly" else norm.std
        return [table[of] / table[name] for of, name in zip(self._changing, tendencies, strict=True)]

    def _surroundings_of(self, micro_batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Solar inputs (B, K, G, H, W) of every step of a roll-out, or of the one forecast, and static (B, S, H, W)."""
        steps = micro_batch.rollout_steps or self.spec.rollout_steps
        lead_BK = np.repeat(self._lead_hours(micro_batch.samples)[:, None], steps, axis=1)
        hours_BK = self._hours(micro_batch.samples)[:, None] + np.arange(steps) * lead_BK
        return self._around.of(hours_BK, lead_BK, self.spec.of(micro_batch).mirrored_B)

    def _hours(self, samples: Sequence[Sample]) -> NDArray[np.float64]:
        """Times (B,) of the inputs, hours since 1850."""
        return self._source.hours[[s.time_index for s in samples]]

    def _lead_hours(self, samples: Sequence[Sample]) -> NDArray[np.float64]:
        """Lead times (B,) [h]."""
        return np.array([s.lead_steps * self._source.step_hours for s in samples], np.float64)

    def _cropped(self, fields: Tensor) -> Tensor:
        """The region out of fields (…, C, h, W) that were read."""
        return fields if self._crop is None else self._crop(fields)

    def _uncounted(self, counted_HW: NDArray[np.bool_] | None) -> Tensor | None:
        """True in the cells of a batch that are set to missing; None: in no cell."""
        if counted_HW is None:
            return None
        own_HW = counted_HW if self._band is None else counted_HW[self._band.part(len(counted_HW))]
        return torch.as_tensor(~own_HW, device=self.device)

    def _normaliser(self) -> FieldNormaliser:
        scale_C, shift_C = affine(self._source, self._names, self._normalisation)
        return FieldNormaliser(
            scale_C11=self._tensor(scale_C)[:, None, None],
            shift_C11=self._tensor(shift_C)[:, None, None],
            crop=self._crop,
            northward=self._augment.northward if self._augment else (),
        )

    def _lead_tables(self) -> tuple[Tensor, Tensor, Tensor]:
        norm = self._normalisation
        r_OT, s_OT = (self._tensor([table[v] for v in self.outputs]) for table in (norm.r, norm.s))
        return self._tensor(norm.lead_hours), r_OT, s_OT

    def _augmentation(self, roll: bool, flip: bool) -> Augmentation:
        norm, names = self._normalisation, self._names
        # -v in z-scores is -z - 2·mean/std; anomalies have no mean.
        northward = [c for c in names if c in {*self.inputs, *self._changing} and lookup(c).is_northward]
        ratio_N = [norm.mean[c] / norm.std[c] if norm.mode == "full" else 0.0 for c in northward]
        return Augmentation(
            roll=roll,
            flip=flip,
            northward_N=torch.as_tensor(np.array([names.index(c) for c in northward], np.int64), device=self.device),
            offset_N=2 * self._tensor(ratio_N),
            latitude_S=self._around.is_latitude_S,
        )

    def _tensor(self, values: Any) -> Tensor:
        return torch.as_tensor(np.asarray(values, np.float32), device=self.device)
