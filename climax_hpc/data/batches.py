"""Groups of samples -> tensors in the model's units: reading on a background thread, affine maps on the device.

Dimensions: B samples · C source channels · V input variables · O output variables · S static fields · H, W grid.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from climax_hpc.data.normalisation import Normalisation
from climax_hpc.data.order import Group, Sample, SampleOrder, uniform
from climax_hpc.data.shards import Source
from climax_hpc.errors import UserError
from climax_hpc.model.output_modes import at_lead, network_target
from climax_hpc.variables import lookup

_PREFETCH_GROUPS = 4


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One group, ready for the model. All fields in the model's units; NaN is missing."""

    in_variables: tuple[str, ...]
    out_variables: tuple[str, ...]
    x_BVHW: Tensor
    """Input, static fields last."""
    lead_hours_B: Tensor
    y_BOHW: Tensor
    """Truth at the lead time: z-scores (`full`) or normalised anomalies (`anomaly`)."""
    skip_BOHW: Tensor | None
    """Input anomalies of the output variables; None in `full` mode."""
    r_BO: Tensor | None
    s_BO: Tensor | None

    def network_target(self) -> Tensor:
        """What the network's output is compared with."""
        if self.skip_BOHW is None or self.r_BO is None or self.s_BO is None:
            return self.y_BOHW
        return network_target(self.y_BOHW, self.skip_BOHW, self.r_BO, self.s_BO)


@dataclass(frozen=True, kw_only=True)
class _Raw:
    """What was read for one group, as stored."""

    group: Group
    x_BCHW: NDArray[Any]
    y_BCHW: NDArray[Any]
    x_climatology_BCHW: NDArray[np.float32] | None
    y_climatology_BCHW: NDArray[np.float32] | None


class Holdings(Protocol):
    """What `choose_variables` asks of a source."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def channels(self) -> Sequence[str]:
        """Registry names of the dynamic variables."""
        ...

    @property
    def static(self) -> Mapping[str, NDArray[Any]]:
        """Static fields by registry name."""
        ...


def choose_variables(
    source: Holdings, model_variables: Sequence[str], wanted_in: Sequence[str] | None, wanted_out: Sequence[str] | None
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


class BatchMaker:
    """Turns groups of one source into batches on a device."""

    def __init__(
        self,
        source: Source,
        normalisation: Normalisation,
        *,
        inputs: Sequence[str],
        outputs: Sequence[str],
        device: torch.device,
        random_roll: bool = False,
        random_flip: bool = False,
    ) -> None:
        self._source, self._normalisation, self._device = source, normalisation, device
        self._roll, self._flip = random_roll, random_flip
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        dynamic = [v for v in inputs if not lookup(v).static]
        self._in = torch.tensor([source.channels.index(v) for v in dynamic], device=device)
        self._out = torch.tensor([source.channels.index(v) for v in outputs], device=device)
        self._scale_C, self._shift_C = (self._tensor(a)[:, None, None] for a in self._affine())
        self._static_SHW = self._static_fields([v for v in inputs if lookup(v).static])
        self._northward_C = torch.tensor(
            [c in self.inputs and lookup(c).is_northward for c in source.channels], device=device
        )
        self._tables = self._lead_tables() if normalisation.mode == "anomaly" else None

    def read(self, group: Group) -> _Raw:
        """Read a group's chunks; safe on another thread."""
        now = [s.time_index for s in group.samples]
        later = [s.time_index + s.lead_steps for s in group.samples]
        climatology = self._normalisation.mode == "anomaly"
        return _Raw(
            group=group,
            x_BCHW=np.stack([self._source.read(t) for t in now]),
            y_BCHW=np.stack([self._source.read(t) for t in later]),
            x_climatology_BCHW=np.stack([self._source.read_climatology(t) for t in now]) if climatology else None,
            y_climatology_BCHW=np.stack([self._source.read_climatology(t) for t in later]) if climatology else None,
        )

    def assemble(self, raw: _Raw) -> Batch:
        """Batch of a group that was read."""
        x_BCHW = self._to_model_units(raw.x_BCHW, raw.x_climatology_BCHW)
        y_BCHW = self._to_model_units(raw.y_BCHW, raw.y_climatology_BCHW)
        static_BSHW = self._static_SHW.expand(len(x_BCHW), *self._static_SHW.shape)
        if self._roll or self._flip:
            x_BCHW, y_BCHW, static_BSHW = self._augment(raw.group, x_BCHW, y_BCHW, static_BSHW)
        lead_hours_B = self._tensor([s.lead_steps * self._source.step_hours for s in raw.group.samples])
        r_BO = s_BO = skip_BOHW = None
        if self._tables is not None:
            leads_T, r_OT, s_OT = self._tables
            r_BO, s_BO = at_lead(r_OT, leads_T, lead_hours_B), at_lead(s_OT, leads_T, lead_hours_B)
            skip_BOHW = x_BCHW[:, self._out]
        return Batch(
            in_variables=self.inputs,
            out_variables=self.outputs,
            x_BVHW=torch.cat([x_BCHW[:, self._in], static_BSHW], dim=1),
            lead_hours_B=lead_hours_B,
            y_BOHW=y_BCHW[:, self._out],
            skip_BOHW=skip_BOHW,
            r_BO=r_BO,
            s_BO=s_BO,
        )

    def to_shard_units(self, y_BOHW: Tensor, samples: Sequence[Sample]) -> Tensor:
        """Forecasts of these samples from the model's units to the shards' z-scores."""
        z_BOHW = (y_BOHW - self._shift_C[self._out]) / self._scale_C[self._out]
        if self._normalisation.mode == "anomaly":
            valid = [s.time_index + s.lead_steps for s in samples]
            climatology_BCHW = np.stack([self._source.read_climatology(t) for t in valid])
            z_BOHW = z_BOHW + torch.from_numpy(climatology_BCHW).to(self._device)[:, self._out]
        return z_BOHW

    def _affine(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Shards' z-scores -> the model's units: scale (C,) and shift (C,)."""
        norm, names = self._normalisation, self._source.channels

        def units(table: dict[str, float]) -> NDArray[np.float64]:
            # Channels that the model does not use are dropped after scaling.
            return np.array([table[c] if c in self.inputs else 1.0 for c in names])

        if norm.mode == "anomaly":
            return self._source.std_C / units(norm.anomaly_std), np.zeros(len(names))
        return self._source.std_C / units(norm.std), (self._source.mean_C - units(norm.mean)) / units(norm.std)

    def _to_model_units(self, stored: NDArray[Any], climatology: NDArray[np.float32] | None) -> Tensor:
        z_BCHW = torch.from_numpy(stored).to(self._device, non_blocking=True).float()
        if climatology is not None:
            z_BCHW = z_BCHW - torch.from_numpy(climatology).to(self._device, non_blocking=True)
        return z_BCHW * self._scale_C + self._shift_C

    def _static_fields(self, names: Sequence[str]) -> Tensor:
        rows, columns = self._source.grid.shape
        fields_SHW = np.zeros((len(names), rows, columns), np.float32)
        for i, name in enumerate(names):
            fields_SHW[i] = (self._source.static[name] - self._normalisation.mean[name]) / self._normalisation.std[name]
        return self._tensor(fields_SHW)

    def _lead_tables(self) -> tuple[Tensor, Tensor, Tensor]:
        norm = self._normalisation
        r_OT, s_OT = (self._tensor([table[v] for v in self.outputs]) for table in (norm.r, norm.s))
        return self._tensor(norm.lead_hours), r_OT, s_OT

    def _augment(self, group: Group, x: Tensor, y: Tensor, static: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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
            shift = int(uniform(group.key, 1, i) * x.shape[-1]) if self._roll else 0
            flip = self._flip and uniform(group.key, 2, i) < 0.5
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
        return torch.as_tensor(np.asarray(values, np.float32), device=self._device)


def samples_batch(maker: BatchMaker, source: str, samples: Sequence[Sample]) -> Batch:
    """One batch of given samples, without randomness: for evaluation."""
    return maker.assemble(maker.read(Group(source=source, samples=tuple(samples), key=0)))


def batches(
    order: SampleOrder, makers: dict[str, BatchMaker], *, first_step: int, steps: int, rank: int, ranks: int
) -> Iterator[tuple[int, Group, Batch]]:
    """This rank's (step, group, batch) in order, read ahead on one thread."""
    todo = ((step, group) for step in range(first_step, steps) for group in order.groups(step, rank=rank, ranks=ranks))
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader") as pool:
        ahead: deque[tuple[int, Future[_Raw]]] = deque()

        def read_on() -> None:
            for step, group in todo:
                ahead.append((step, pool.submit(makers[group.source].read, group)))
                if len(ahead) >= _PREFETCH_GROUPS:
                    return

        read_on()
        while ahead:
            step, future = ahead.popleft()
            raw = future.result()
            read_on()
            yield step, raw.group, makers[raw.group.source].assemble(raw)
