"""Builds batches of pairs on the model grid: interpolated coarse input, static fields, fine target, normalised.

Dimensions: B samples · T input times (1) · C channels · V input variables · O output variables · S static fields ·
H, W the model's grid.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from climax_hpc.data.batches import Batch
from climax_hpc.data.normalisation import Normalisation
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.raw_batch import RawBatch
from climax_hpc.data.sampler import MicroBatch
from climax_hpc.errors import UserError
from climax_hpc.fields.variables import lookup
from climax_hpc.model.indices import index_tensor
from climax_hpc.tasks.downscaling.grids import Interpolator, PaddedGrid
from climax_hpc.tasks.downscaling.pairs import PairBatchSpec, PairedSource


def choose_variables(
    coarse_channels: Sequence[str],
    fine: PackedSource,
    known: Sequence[str],
    wanted_in: Sequence[str] | None,
    wanted_out: Sequence[str] | None,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Inputs (coarse channels, then static fields of the fine grid) and outputs (fine channels) among those `known`.

    Raises:
        UserError: no input or no output variable is left.
    """
    dynamic = [v for v in coarse_channels if v in known and (wanted_in is None or v in wanted_in)]
    static = [v for v in sorted(fine.static) if v in known and (wanted_in is None or v in wanted_in)]
    outputs = [v for v in fine.channels if v in known and (wanted_out is None or v in wanted_out)]
    for kind, found, held in (("input", dynamic, coarse_channels), ("output", outputs, fine.channels)):
        if not found:
            raise UserError(
                f"downscaling to {fine.name} has no {kind}: the data hold {', '.join(held)}, none of which is in "
                f"model.variables and asked for by data.{kind[:-3]}_variables"
            )
    return (*dynamic, *static), tuple(outputs)


def static_fields(
    fine: PackedSource, names: Sequence[str], norm: Normalisation, where: PaddedGrid
) -> NDArray[np.float32]:
    """Static inputs (S, H, W) on the model grid as z-scores; latitude also covers the margin."""
    fields = np.zeros((len(names), *where.grid.shape), np.float32)
    for i, name in enumerate(names):
        physical = where.extended(np.asarray(fine.static[name], np.float64))
        if name == "latitude":
            physical = np.repeat(where.grid.lat[:, None], where.grid.shape[1], axis=1)
        fields[i] = (physical - norm.mean[name]) / norm.std[name]
    return fields


class PairBatchBuilder:
    """Builds batches from the pairs of one source; a `climax_hpc.data.batches.BatchBuilder`."""

    def __init__(
        self,
        paired: PairedSource,
        normalisation: Normalisation,
        *,
        inputs: Sequence[str],
        outputs: Sequence[str],
        where: PaddedGrid,
        device: torch.device,
        variable_weight_O: Tensor | None = None,
    ) -> None:
        """`variable_weight_O`: weights of the outputs in the loss, on the device; None: all count alike."""
        self.inputs, self.outputs, self.device = tuple(inputs), tuple(outputs), device
        self._variable_weight_O = variable_weight_O
        self._norm, self._where, coarse, fine = normalisation, where, paired.coarse, paired.fine
        self._anomaly = normalisation.mode == "anomaly"
        dynamic = [v for v in inputs if not lookup(v).static]
        of_coarse, of_fine = coarse.part_of(dynamic), fine.part_of(outputs)
        self.spec = PairBatchSpec(
            source=fine, paired=paired, climatology=self._anomaly, part=of_fine, coarse_part=of_coarse
        )
        self._interpolate = Interpolator(coarse.grid, where.grid, dtype=torch.float32, device=device)
        self._in = index_tensor([of_coarse.place(coarse.channels.index(v)) for v in dynamic], device)
        self._out = index_tensor([of_fine.place(fine.channels.index(v)) for v in outputs], device)
        self._x_affine = self._affine(coarse, dynamic)
        self._y_affine = self._affine(fine, outputs)
        static = static_fields(fine, inputs[len(dynamic) :], normalisation, where)
        self._static_SHW = torch.from_numpy(static).to(device)
        self._skip = [dynamic.index(v) if v in dynamic else None for v in outputs]
        self._r_O, self._s_O = (self._table(getattr(normalisation, key)) for key in ("r", "s"))

    def assemble(self, micro_batch: MicroBatch, raw: RawBatch) -> Batch:
        """The batch of a micro-batch that was read; it shares no memory with `raw`."""
        x_climatology = raw.x_climatology_BTCHW
        x_BCHW = self._normalised(
            raw.x_BTCHW[:, -1], None if x_climatology is None else x_climatology[:, -1], self._in, self._x_affine
        )
        y_BOHW = self._normalised(raw.y_BCHW, raw.y_climatology_BCHW, self._out, self._y_affine)
        x_BCHW = self._interpolate(x_BCHW)
        samples = len(x_BCHW)
        x_BVHW = torch.cat([x_BCHW, self._static_SHW.expand(samples, *self._static_SHW.shape)], dim=1)
        return Batch(
            in_variables=self.inputs,
            out_variables=self.outputs,
            x_BVHW=x_BVHW,
            x_BTVHW=None,
            lead_hours_B=torch.zeros(samples, device=self.device),
            y_BOHW=self._where.place(y_BOHW),
            skip_BOHW=skipped(x_BCHW, self._skip) if self._anomaly else None,
            r_BO=None if self._r_O is None else self._r_O.expand(samples, -1),
            s_BO=None if self._s_O is None else self._s_O.expand(samples, -1),
            variable_weight_O=self._variable_weight_O,
        )

    def _affine(self, source: PackedSource, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Scale and shift (C, 1, 1) from z-scores of the shards to the normalisation of the model."""
        places = [source.channels.index(name) for name in names]
        mean_C, std_C = source.mean_C[places], source.std_C[places]
        norm = self._norm
        if self._anomaly:
            scale_C, shift_C = std_C / np.array([norm.anomaly_std[v] for v in names]), np.zeros(len(names))
        else:
            model_mean_C, model_std_C = (np.array([table[v] for v in names]) for table in (norm.mean, norm.std))
            scale_C, shift_C = std_C / model_std_C, (mean_C - model_mean_C) / model_std_C
        scale_C11, shift_C11 = (
            torch.as_tensor(a[:, None, None], dtype=torch.float32, device=self.device) for a in (scale_C, shift_C)
        )
        return scale_C11, shift_C11

    def _normalised(
        self, z_BCHW: Tensor, climatology_BCHW: Tensor | None, places_C: Tensor, affine: tuple[Tensor, Tensor]
    ) -> Tensor:
        z_BCHW = z_BCHW.index_select(1, places_C).to(torch.float32)
        if climatology_BCHW is not None:
            z_BCHW = z_BCHW - climatology_BCHW.index_select(1, places_C)
        return z_BCHW * affine[0] + affine[1]

    def _table(self, table: Mapping[str, Sequence[float]]) -> Tensor | None:
        if not self._anomaly:
            return None
        return torch.tensor([table[v][0] for v in self.outputs], device=self.device)


def skipped(x_BCHW: Tensor, places: Sequence[int | None]) -> Tensor:
    """Interpolated input (B, O, H, W) of each output variable; 0 if the coarse source lacks the variable."""
    nothing_BHW = torch.zeros_like(x_BCHW[:, 0])
    return torch.stack([nothing_BHW if at is None else x_BCHW[:, at] for at in places], dim=1)
