"""Micro-batches as stored: their tensors, where these lie in a buffer, and how they are read.

Dimensions: B samples · T input times, oldest first · C channels that are read · H rows that are read · W columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from climax_hpc.data.augmentation import mirrored
from climax_hpc.data.field_part import ALL, FieldPart
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.sampler import MicroBatch, Sample
from climax_hpc.fields.averaging_window import WindowSteps

_ALIGNMENT = 64  # bytes; of every array in a buffer


@dataclass(frozen=True, kw_only=True)
class RawBatch:
    """The tensors of one micro-batch: z-scores as stored, NaN is missing."""

    x_BTCHW: Tensor
    """Inputs, oldest time first; the last is the time of the sample."""
    y_BCHW: Tensor
    """Targets; in a roll-out, all of the first sample in order of lead time, then those of the next."""
    x_climatology_BTCHW: Tensor | None = None
    """Climatology at the times of the inputs; None where it is not needed."""
    y_climatology_BCHW: Tensor | None = None
    """Climatology at the times of the targets; None where it is not needed."""

    def tensors(self) -> Iterator[Tensor]:
        """The tensors that are not None."""
        fields = (self.x_BTCHW, self.y_BCHW, self.x_climatology_BTCHW, self.y_climatology_BCHW)
        return (field for field in fields if field is not None)


class BatchSpec(Protocol):
    """What the reader must know of a micro-batch; a task may have its own instead of `SourceBatchSpec`."""

    @property
    def source(self) -> PackedSource:
        """The source that micro-batches are named after."""
        ...

    def of(self, micro_batch: MicroBatch) -> "BatchSpec":
        """What is read for this micro-batch, which may be less."""
        ...

    def nbytes(self, samples: int) -> int:
        """Bytes in a buffer for a micro-batch of this many samples."""
        ...

    def in_buffer(self, buffer: Tensor, samples: int) -> Any:
        """The tensors of a micro-batch as views of a buffer of bytes, which may lie on a GPU."""
        ...

    def read_into(self, raw: Any, samples: Sequence[Sample]) -> None:
        """Read these samples into the tensors; called by threads."""
        ...


@dataclass(frozen=True, kw_only=True)
class SourceBatchSpec:
    """What is read of a source for a micro-batch."""

    source: PackedSource
    history_steps: int = 0
    """Input times before that of the sample."""
    history_stride: int = 1
    """Time steps between the input times."""
    climatology: bool = False
    """Whether the climatology of every time is read too."""
    window: WindowSteps | None = None
    """Targets are float32 means over this window, which starts at the lead time; None: states at the lead time."""
    rollout_steps: int = 1
    """Targets of a sample: at 1, 2, … times its lead time, up to this number."""
    part: FieldPart = ALL
    """Channels and rows that are read; C and H of the tensors count these."""
    mirrored_part: FieldPart | None = None
    """The same for samples that augmentation mirrors, where their rows come from others; None: from the same."""
    mirrored_B: tuple[bool, ...] = ()
    """Which samples of a micro-batch have their rows from `mirrored_part`; empty: none."""

    def of(self, micro_batch: MicroBatch) -> "SourceBatchSpec":
        """With the roll-out steps of this micro-batch, which are at most those of the spec, and its mirror images."""
        spec, steps = self, micro_batch.rollout_steps
        if steps is not None and steps != self.rollout_steps:
            spec = replace(spec, rollout_steps=steps)
        if self.mirrored_part is not None:
            spec = replace(spec, mirrored_B=tuple(mirrored(micro_batch.key, len(micro_batch.samples))))
        return spec

    def shapes(self, samples: int) -> list[tuple[tuple[int, ...], torch.dtype]]:
        """Shape and type of each tensor of `RawBatch`."""
        dtype = torch.float16 if self.source.dtype.itemsize == 2 else torch.float32
        field = self.part.shape_in(self.source.chunk_shape)
        target = (samples * self.rollout_steps, *field)
        inputs = (samples, 1 + self.history_steps, *field)
        of_target = torch.float32 if self.window else dtype
        fields: list[tuple[tuple[int, ...], torch.dtype]] = [(inputs, dtype), (target, of_target)]
        return fields + ([(inputs, torch.float32), (target, torch.float32)] if self.climatology else [])

    def nbytes(self, samples: int) -> int:
        """Bytes in a buffer for a micro-batch of this many samples."""
        return sum(_aligned(torch.Size(shape).numel() * dtype.itemsize) for shape, dtype in self.shapes(samples))

    def in_buffer(self, buffer: Tensor, samples: int) -> RawBatch:
        """The tensors of a micro-batch as views of a buffer of bytes."""
        views, start = [], 0
        for shape, dtype in self.shapes(samples):
            size = torch.Size(shape).numel() * dtype.itemsize
            views.append(buffer[start : start + size].view(dtype).view(shape))
            start += _aligned(size)
        return RawBatch(
            x_BTCHW=views[0],
            y_BCHW=views[1],
            x_climatology_BTCHW=views[2] if self.climatology else None,
            y_climatology_BCHW=views[3] if self.climatology else None,
        )

    def read_into(self, raw: RawBatch, samples: Sequence[Sample]) -> None:
        """Read these samples into the tensors.

        Raises:
            UserError: a file that is absent, truncated, or does not match its checksums.
        """
        mirrored_B = self.mirrored_B or (False,) * len(samples)
        for is_mirrored, group in groupby(range(len(samples)), key=mirrored_B.__getitem__):
            some = list(group)
            part = self.mirrored_part if is_mirrored and self.mirrored_part else self.part
            self._read_part(raw, samples, slice(some[0], some[-1] + 1), part)

    def _read_part(self, raw: RawBatch, samples: Sequence[Sample], some: slice, part: FieldPart) -> None:
        """Read a part of some of the samples."""
        back = [k * self.history_stride for k in range(-self.history_steps, 1)]
        now = [s.time_index + k for s in samples[some] for k in back]
        later = [s.time_index + k * s.lead_steps for s in samples[some] for k in range(1, self.rollout_steps + 1)]

        def inputs(of_samples: Tensor) -> NDArray[Any]:
            return of_samples[some].flatten(0, 1).numpy()

        def targets(of_samples: Tensor) -> NDArray[Any]:
            return of_samples[some.start * self.rollout_steps : some.stop * self.rollout_steps].numpy()

        source = self.source
        source.read_into(now, inputs(raw.x_BTCHW), part)
        if self.window:
            self.window.means_into(partial(source.read, part=part), later, targets(raw.y_BCHW))
        else:
            source.read_into(later, targets(raw.y_BCHW), part)
        if raw.x_climatology_BTCHW is not None and raw.y_climatology_BCHW is not None:
            source.read_climatology_into(now, inputs(raw.x_climatology_BTCHW), part)
            if self.window:
                means = partial(source.read_climatology, part=part)
                self.window.means_into(means, later, targets(raw.y_climatology_BCHW))
            else:
                source.read_climatology_into(later, targets(raw.y_climatology_BCHW), part)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
