"""Groups of samples as read -> tensors in the model's units, on the device: affine maps, crops, augmentation.

Dimensions: B samples · T input times, oldest first · K targets of a roll-out · C source channels · V input variables ·
O output variables · S static fields · H, W grid, or the rows and columns of a region.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from climax_hpc.data.dataset import PackedSource
from climax_hpc.data.normalisation import Normalisation
from climax_hpc.data.prefetch import BatchSpec, RawBatch, SourceBatchSpec, read_micro_batches
from climax_hpc.data.sampler import MicroBatch, Sample, Sampler, uniform
from climax_hpc.errors import UserError
from climax_hpc.fields.averaging_window import Window
from climax_hpc.fields.regions import PADDING, Crop
from climax_hpc.fields.variables import lookup
from climax_hpc.model.output_modes import at_lead, network_target


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch, ready for the model. All fields in the model's units; NaN is missing."""

    in_variables: tuple[str, ...]
    out_variables: tuple[str, ...]
    x_BVHW: Tensor
    """Input at the time of the sample, static fields last."""
    x_BTVHW: Tensor | None
    """Input at the times before, oldest first, and at that of the sample, which is last; None without history."""
    lead_hours_B: Tensor
    y_BOHW: Tensor
    """Truth at the lead time: z-scores (`full`) or normalised anomalies (`anomaly`)."""
    skip_BOHW: Tensor | None
    """Input anomalies of the output variables; None in `full` mode."""
    r_BO: Tensor | None
    s_BO: Tensor | None
    y_BKOHW: Tensor | None = None
    """Truth at 1, 2, … K times the lead time, of which `y_BOHW` is the first; None without a roll-out."""

    def network_target(self) -> Tensor:
        """What the network's output is compared with."""
        if self.skip_BOHW is None or self.r_BO is None or self.s_BO is None:
            return self.y_BOHW
        return network_target(self.y_BOHW, self.skip_BOHW, self.r_BO, self.s_BO)


class VariableProvider(Protocol):
    """Which variables a source or an input of forecasts holds: what `choose_variables` asks."""

    @property
    def name(self) -> str:
        """What messages and files call it."""
        ...

    @property
    def channels(self) -> Sequence[str]:
        """Registry names of the C dynamic variables."""
        ...

    @property
    def static(self) -> Mapping[str, NDArray[Any]]:
        """Static fields (H, W) by registry name."""
        ...


def choose_variables(
    source: VariableProvider,
    model_variables: Sequence[str],
    wanted_in: Sequence[str] | None,
    wanted_out: Sequence[str] | None,
) -> tuple[list[str], list[str]]:
    """Input (static last) and output variables that this source can serve.

    Raises:
        UserError: nothing is left to feed or to forecast.
    """
    here = [*source.channels, *sorted(source.static)]
    inputs = [v for v in here if v in model_variables and (wanted_in is None or v in wanted_in)]
    inputs.sort(key=lambda v: lookup(v).static)
    outputs = [v for v in inputs if not lookup(v).static and (wanted_out is None or v in wanted_out)]
    if not outputs:
        raise UserError(
            f"source {source.name} holds {', '.join(here)}; none of them is both in model.variables and asked for by "
            "data.in_variables and data.out_variables"
        )
    return inputs, outputs


class SourceBatchBuilder:
    """Turns micro-batches of one source into batches on a device.

    Args:
        source: where the samples come from.
        normalisation: the model's units.
        inputs: variables to feed, static ones last.
        outputs: variables to forecast.
        device: where the batches are to be.
        random_roll: turn every sample by a random longitude.
        random_flip: exchange north and south in half of the samples.
        history_steps: input steps before that of the sample; fills `Batch.x_BTVHW`.
        crop: the region to cut out; chunks are read whole, because their checksums are of the whole.
        counted_HW: True in the cells that targets have; the others are missing in them. All where None.
        window: targets are means over this window from the lead time on; states at the lead time where None.
        rollout_steps: targets at this many multiples of the lead time; more than one fill `Batch.y_BKOHW`.
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
        counted_HW: NDArray[np.bool_] | None = None,
        window: Window | None = None,
        rollout_steps: int = 1,
    ) -> None:
        if crop is not None and (random_roll or random_flip):
            raise UserError("data.random_roll and data.random_flip turn the whole globe: switch them off for a region")
        self._source, self._normalisation, self.device = source, normalisation, device
        self._roll, self._flip = random_roll, random_flip
        self._cut = None if crop is None else _Cut(crop, device)
        self._uncounted_HW = None if counted_HW is None else torch.as_tensor(~counted_HW, device=device)
        self.spec: SourceBatchSpec = SourceBatchSpec(
            source=source,
            history_steps=history_steps,
            climatology=normalisation.mode == "anomaly",
            window=window.over(source.step_hours, source.name) if window else None,
            rollout_steps=rollout_steps,
        )
        """What of the source makes up a micro-batch."""
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        dynamic = [v for v in inputs if not lookup(v).static]
        self._in = torch.tensor([source.channels.index(v) for v in dynamic], device=device)
        self._out = torch.tensor([source.channels.index(v) for v in outputs], device=device)
        self._all_in, self._all_out = (list(names) == source.channels for names in (dynamic, outputs))
        self._scale_C, self._shift_C = (self._tensor(a)[:, None, None] for a in self._affine())
        self._static_SHW = self._static_fields([v for v in inputs if lookup(v).static])
        self._northward_C = torch.tensor(
            [c in self.inputs and lookup(c).is_northward for c in source.channels], device=device
        )
        self._tables = self._lead_tables() if normalisation.mode == "anomaly" else None

    def assemble(self, micro_batch: MicroBatch, raw: RawBatch) -> Batch:
        """Batch of a micro-batch that was read; nothing in it shares memory with `raw`."""
        x_BTCHW = self._normalised(raw.x_BTCHW, raw.x_climatology_BTCHW)
        y_BCHW = self._normalised(raw.y_BCHW, raw.y_climatology_BCHW)
        if self._uncounted_HW is not None:
            y_BCHW.masked_fill_(self._uncounted_HW, torch.nan)
        if self.spec.rollout_steps > 1:
            y_BCHW = y_BCHW.unflatten(0, (-1, self.spec.rollout_steps))
        static_BSHW = self._static_SHW.expand(len(x_BTCHW), *self._static_SHW.shape)
        if self._roll or self._flip:
            x_BTCHW, y_BCHW, static_BSHW = self._augment(micro_batch, x_BTCHW, y_BCHW, static_BSHW)
        now_BCHW = x_BTCHW[:, -1]
        lead_hours_B = self._tensor([s.lead_steps * self._source.step_hours for s in micro_batch.samples])
        r_BO = s_BO = skip_BOHW = x_BTVHW = None
        if self._tables is not None:
            leads_T, r_OT, s_OT = self._tables
            r_BO, s_BO = at_lead(r_OT, leads_T, lead_hours_B), at_lead(s_OT, leads_T, lead_hours_B)
            skip_BOHW = self._outputs_of(now_BCHW)
        if self.spec.history_steps:
            static_BTSHW = static_BSHW[:, None].expand(-1, x_BTCHW.shape[1], -1, -1, -1)
            x_BTVHW = torch.cat([x_BTCHW[:, :, self._in], static_BTSHW], dim=2)
        y_BOHW = self._outputs_of(y_BCHW)
        y_BKOHW = y_BOHW if self.spec.rollout_steps > 1 else None
        return Batch(
            in_variables=self.inputs,
            out_variables=self.outputs,
            x_BVHW=torch.cat([self._inputs_of(now_BCHW), static_BSHW], dim=1),
            x_BTVHW=x_BTVHW,
            lead_hours_B=lead_hours_B,
            y_BOHW=y_BOHW if y_BKOHW is None else y_BKOHW[:, 0],
            skip_BOHW=skip_BOHW,
            r_BO=r_BO,
            s_BO=s_BO,
            y_BKOHW=y_BKOHW,
        )

    def to_shard_z_scores(self, y_BOHW: Tensor, samples: Sequence[Sample]) -> Tensor:
        """Forecasts of these samples from the model's units to the shards' z-scores."""
        z_BOHW = (y_BOHW - self._shift_C[self._out]) / self._scale_C[self._out]
        if self._normalisation.mode == "anomaly":
            valid = [s.time_index + s.lead_steps for s in samples]
            read, window = self._source.read_climatology, self.spec.window
            fields = [window.mean(read, t) if window else read(t) for t in valid]
            climatology_BCHW = torch.from_numpy(np.stack(fields))
            z_BOHW = z_BOHW + self._cropped(climatology_BCHW.to(self.device))[:, self._out]
        return z_BOHW

    def _affine(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Shards' z-scores -> the model's units: scale (C,) and shift (C,)."""
        norm, names = self._normalisation, self._source.channels

        def units(table: dict[str, float]) -> NDArray[np.float64]:
            # Channels that the model does not use are dropped after scaling.
            used = {*self.inputs, *self.outputs}
            return np.array([table[c] if c in used else 1.0 for c in names])

        if norm.mode == "anomaly":
            return self._source.std_C / units(norm.anomaly_std), np.zeros(len(names))
        return self._source.std_C / units(norm.std), (self._source.mean_C - units(norm.mean)) / units(norm.std)

    def _normalised(self, z: Tensor, climatology: Tensor | None) -> Tensor:
        """Fields (…, C, H, W) as stored -> float32 in the model's units."""
        z = self._cropped(z).to(torch.float32, copy=True)  # changed in place: new memory costs more than arithmetic
        if climatology is not None:
            z.sub_(self._cropped(climatology))
        return z.mul_(self._scale_C).add_(self._shift_C)

    # Choosing channels copies them: where all are wanted, the fields are taken as they are.
    def _inputs_of(self, fields_BCHW: Tensor) -> Tensor:
        return fields_BCHW if self._all_in else fields_BCHW[:, self._in]

    def _outputs_of(self, fields_BCHW: Tensor) -> Tensor:
        return fields_BCHW if self._all_out else fields_BCHW[..., self._out, :, :]

    def _cropped(self, fields: Tensor) -> Tensor:
        return fields if self._cut is None else self._cut(fields)

    def _static_fields(self, names: Sequence[str]) -> Tensor:
        rows, columns = self._source.grid.shape
        fields_SHW = np.zeros((len(names), rows, columns), np.float32)
        for i, name in enumerate(names):
            fields_SHW[i] = (self._source.static[name] - self._normalisation.mean[name]) / self._normalisation.std[name]
        return self._cropped(self._tensor(fields_SHW))

    def _lead_tables(self) -> tuple[Tensor, Tensor, Tensor]:
        norm = self._normalisation
        r_OT, s_OT = (self._tensor([table[v] for v in self.outputs]) for table in (norm.r, norm.s))
        return self._tensor(norm.lead_hours), r_OT, s_OT

    def _augment(self, micro_batch: MicroBatch, x: Tensor, y: Tensor, static: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Turn each sample by a random longitude; mirror half of them about the equator, northward winds negated.

        The mirrored planet obeys the same dynamics, with the Coriolis force of the latitude it now lies at; so the
        latitude field itself stays. In `full` mode -v in z-scores is -z - 2·mean/std.
        """
        names = self.inputs[len(self._in) :]
        keep = [i for i, name in enumerate(names) if name == "latitude"]
        norm = self._normalisation
        offset_C = torch.zeros_like(self._shift_C)
        if norm.mode == "full":
            ratio = [norm.mean.get(c, 0.0) / norm.std.get(c, 1.0) for c in self._source.channels]
            offset_C = self._tensor(ratio)[:, None, None]
        augmented: tuple[list[Tensor], ...] = ([], [], [])
        for i in range(len(x)):
            shift = int(uniform(micro_batch.key, 1, i) * x.shape[-1]) if self._roll else 0
            flip = self._flip and uniform(micro_batch.key, 2, i) < 0.5
            parts = [torch.roll(field[i], shift, -1) for field in (x, y, static)]
            if flip:
                parts = [part.flip(-2) for part in parts]
                north = self._northward_C[:, None, None]
                for k in (0, 1):
                    parts[k] = torch.where(north, -parts[k] - 2 * offset_C, parts[k])
            parts[2][keep] = static[i][keep]
            for whole, part in zip(augmented, parts, strict=True):
                whole.append(part)
        x, y, static = (torch.stack(whole) for whole in augmented)
        return x, y, static

    def _tensor(self, values: Any) -> Tensor:
        return torch.as_tensor(np.asarray(values, np.float32), device=self.device)


class _Cut:
    """Cuts a region out of fields (…, H, W) on a device; NaN where the region reaches beyond the grid."""

    def __init__(self, crop: Crop, device: torch.device) -> None:
        self._rows = torch.as_tensor(np.maximum(crop.rows, 0), device=device)
        self._columns = torch.as_tensor(np.maximum(crop.columns, 0), device=device)
        padding_HW = (crop.rows == PADDING)[:, None] | (crop.columns == PADDING)[None, :]
        self._padding_HW = torch.as_tensor(padding_HW, device=device) if padding_HW.any() else None

    def __call__(self, fields: Tensor) -> Tensor:
        cut = fields.index_select(-2, self._rows).index_select(-1, self._columns)
        return cut if self._padding_HW is None else cut.masked_fill(self._padding_HW, torch.nan)


class BatchBuilder(Protocol):
    """Builds the batches of one source for the training loop: `spec` says what to read, `assemble` builds the batch."""

    device: torch.device
    inputs: tuple[str, ...]
    """Registry names that the network is fed with."""
    outputs: tuple[str, ...]
    """Registry names that it is trained for."""

    @property
    def spec(self) -> BatchSpec:
        """What a thread reads of a micro-batch."""
        ...

    def assemble(self, micro_batch: MicroBatch, raw: Any) -> Any:
        """What the task's loss takes; nothing in it shares memory with `raw`."""
        ...


def samples_batch(builder: SourceBatchBuilder, source: str, samples: Sequence[Sample]) -> Batch:
    """One batch of given samples, without randomness: for evaluation."""
    micro_batch = MicroBatch(source=source, samples=tuple(samples), key=0)
    return builder.assemble(micro_batch, builder.spec.read(samples).to(builder.device))


def batches(
    sampler: Sampler,
    builders: Mapping[str, BatchBuilder],
    *,
    first_step: int,
    steps: int,
    rank: int,
    ranks: int,
    read_threads: int = 2,
    prefetch_micro_batches: int = 2,
) -> Iterator[tuple[int, MicroBatch, Any]]:
    """(step, micro-batch, batch) of this rank, in order, read ahead; see `prefetch.read_micro_batches`."""
    stream = read_micro_batches(
        sampler.stream(first_step, steps, rank=rank, ranks=ranks),
        {name: builder.spec for name, builder in builders.items()},
        micro_batch_size=sampler.micro_batch_size,
        device=next(iter(builders.values())).device,
        threads=read_threads,
        prefetch_micro_batches=prefetch_micro_batches,
    )
    with closing(stream):
        for step, micro_batch, raw in stream:
            yield step, micro_batch, builders[micro_batch.source].assemble(micro_batch, raw)
