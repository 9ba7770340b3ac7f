"""Fields as stored -> float32 in the model's normalisation; on a processor in one pass over memory.

On a GPU every operation takes whole micro-batches. A processor works through blocks that fit the second-level cache of
a core: each is converted, normalised and moved to its place before the next one begins, so that main memory is read
once and written once. Both do the same operations on every cell, in the same order, so the bits are the same.
Dimensions: N fields · C channels that are read · K of them that are wanted · h, H rows as read
and as built · W columns.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from climax_hpc.data.augmentation import Move
from climax_hpc.data.normalisation import Normalisation
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.model.indices import index_tensor

_BLOCK_CELLS = 1 << 18
"""Cells of a block for each thread of torch: 1 MiB of float32."""


@dataclass(frozen=True, kw_only=True)
class BuiltFields:
    """The fields of a `climax_hpc.data.batches.Batch`; targets (B, O, H, W), or (B, K, O, H, W) of a roll-out."""

    x_BVHW: Tensor
    x_BTVHW: Tensor | None
    y_BOHW: Tensor
    skip_BOHW: Tensor | None
    solar_BKGHW: Tensor


class Run(NamedTuple):
    """Neighbouring channels that are also neighbours where they go."""

    first: int
    """The first channel of those that were read."""
    place: int
    """Where it goes."""
    length: int


class ChosenChannels:
    """Some variables among the channels that are read.

    Args:
        wanted: the variables, in the order in which they are wanted.
        names: the channels that are read.
        device: where the fields lie.
    """

    def __init__(self, wanted: Sequence[str], names: Sequence[str], device: torch.device) -> None:
        places = [names.index(name) for name in wanted]
        self.index = index_tensor(places, device)
        """Their places."""
        self.runs = runs_of(places)
        self._are_all = list(wanted) == list(names)

    def __len__(self) -> int:
        """Number K of variables."""
        return len(self.index)

    def of(self, fields: Tensor) -> Tensor:
        """Their fields (…, K, H, W); where all are wanted, the fields as they are, because choosing copies."""
        return fields if self._are_all else fields[..., self.index, :, :]


@dataclass(frozen=True, kw_only=True, eq=False)
class FieldNormaliser:
    """The map of every field of a source; its tensors lie on the device."""

    scale_C11: Tensor
    """Factor on the z-scores of the shards, after the climatology is subtracted."""
    shift_C11: Tensor
    """What is added then."""
    crop: Callable[[Tensor], Tensor] | None
    """Cuts the region (…, H, W) out of the rows (…, h, W) that were read; None: all."""
    northward: Sequence[tuple[int, float]] = ()
    """Channels that change sign in mirror images, and what is subtracted after the change of sign."""

    def whole(self, z: Tensor, climatology: Tensor | None) -> Tensor:
        """Fields (…, C, h, W) -> (…, C, H, W) in new memory, by operations on all of them."""
        z = self._cropped(z).to(torch.float32, copy=True)  # changed in place: new memory costs more than arithmetic
        if climatology is not None:
            z.sub_(self._cropped(climatology))
        return z.mul_(self.scale_C11).add_(self.shift_C11)

    def write(
        self,
        out_NKHW: Tensor,
        z_NChW: Tensor,
        climatology_NChW: Tensor | None,
        runs: Sequence[Run],
        *,
        moves_N: Sequence[Move] | None = None,
        missing_HW: Tensor | None = None,
    ) -> None:
        """Write K of the channels on a processor, block by block.

        Args:
            out_NKHW: float32; fields may lie apart in memory.
            runs: which channels, and where they go.
            moves_N: where augmentation moves each field; None: nowhere.
            missing_HW: True in cells that are set to missing, before they are moved; None: none.
        """
        z_NCHW = self._cropped(z_NChW)
        climatology = None if climatology_NChW is None else self._cropped(climatology_NChW)
        spare = torch.empty(_block_shape(out_NKHW.shape)) if moves_N is not None else None
        for fields, channels, places in _blocks(out_NKHW.shape, runs):
            out = work = out_NKHW[fields, places]
            if spare is not None:
                work = spare[: out.shape[0], : out.shape[1]]
            work.copy_(z_NCHW[fields, channels])
            if climatology is not None:
                work.sub_(climatology[fields, channels])
            work.mul_(self.scale_C11[channels]).add_(self.shift_C11[channels])
            if missing_HW is not None:
                work.masked_fill_(missing_HW, torch.nan)
            if moves_N is not None:
                for move, field, target in zip(moves_N[fields], work, out, strict=True):
                    if move.mirrored:
                        self._turn_winds(field, channels)
                    move.copy(field, target)

    def _turn_winds(self, field_CHW: Tensor, channels: slice) -> None:
        """Give the northward winds among these channels the other sign, in place."""
        for channel, offset in self.northward:
            if channels.start <= channel < channels.stop:
                field_CHW[channel - channels.start].neg_().sub_(offset)

    def _cropped(self, fields: Tensor) -> Tensor:
        return fields if self.crop is None else self.crop(fields)


def affine(
    source: PackedSource, names: Sequence[str], norm: Normalisation
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale (C,) and shift (C,) of these variables from the z-scores of the shards to the model's normalisation."""
    places = [source.channels.index(c) for c in names]
    mean_C, std_C = source.mean_C[places], source.std_C[places]

    def values(table: dict[str, float]) -> NDArray[np.float64]:
        return np.array([table[c] for c in names])

    if norm.mode == "anomaly":
        return std_C / values(norm.anomaly_std), np.zeros(len(places))
    model_std_C = values(norm.std)
    return std_C / model_std_C, (mean_C - values(norm.mean)) / model_std_C


def runs_of(channels: Sequence[int]) -> list[Run]:
    """Channels in the order in which they are wanted, as runs of neighbours."""
    runs: list[Run] = []
    for place, channel in enumerate(channels):
        if runs and channel == runs[-1].first + runs[-1].length:
            runs[-1] = runs[-1]._replace(length=runs[-1].length + 1)
        else:
            runs.append(Run(channel, place, 1))
    return runs


def _block_shape(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Shape of the largest block of fields (N, K, H, W): some channels of one field, or some whole fields."""
    fields, channels, rows, columns = shape
    most = max(1, _BLOCK_CELLS * torch.get_num_threads() // (rows * columns))  # channels of a block
    return min(fields, max(1, most // channels)), min(most, channels), rows, columns


def _blocks(shape: Sequence[int], runs: Sequence[Run]) -> Iterator[tuple[slice, slice, slice]]:
    """Fields, channels and places of the channels of each block."""
    together, most, *_ = _block_shape(shape)
    for n in range(0, shape[0], together):
        for first, place, length in runs:
            for c in range(0, length, most):
                some = min(most, length - c)
                yield (
                    slice(n, min(n + together, shape[0])),
                    slice(first + c, first + c + some),
                    slice(place + c, place + c + some),
                )
