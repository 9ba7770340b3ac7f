"""Trained downscaling models, and the interface that they share with the baselines.

Dimensions: B samples · C coarse channels · I dynamic inputs · O output variables · h, w coarse grid · H, W fine grid.
All fields are in physical units and float64.
"""

from collections.abc import Sequence
from typing import Protocol

import cftime
import numpy as np
import torch
from torch import Tensor

from climax_hpc.checkpoint.format import Checkpoint, check_task
from climax_hpc.config.inference import Precision
from climax_hpc.data.device_copy import to_device
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.errors import UserError
from climax_hpc.fields.grid import Array, Grid
from climax_hpc.fields.variables import lookup
from climax_hpc.inference.checkpoint_network import CheckpointNetwork
from climax_hpc.tasks.downscaling.batches import choose_variables, skipped, static_fields
from climax_hpc.tasks.downscaling.coarse_input import CoarseFields
from climax_hpc.tasks.downscaling.grids import Interpolator, pad_grid

_DTYPE = torch.float64


class CoarseGrid(Protocol):
    """Channels and grid of coarse fields: of a packed source, or of files."""

    @property
    def channels(self) -> Sequence[str]:
        """Registry names."""
        ...

    @property
    def grid(self) -> Grid:
        """Cells of every field."""
        ...


class Downscaler(Protocol):
    """Turns coarse fields into fine ones: trained models and baselines."""

    variables: tuple[str, ...]
    """Registry names of the outputs."""

    def fine(self, coarse: CoarseFields) -> Array:
        """Fields (B, O, H, W) on the fine grid; NaN where a baseline has none."""
        ...


def physically_possible(fields_BOHW: Array, variables: Sequence[str]) -> Array:
    """The fields with negative precipitation set to 0, of models and baselines; NaN stays."""
    for place, name in enumerate(variables):
        if lookup(name).standard_name == "precipitation_flux":
            np.maximum(fields_BOHW[:, place], 0.0, out=fields_BOHW[:, place])
    return fields_BOHW


class TrainedDownscaler:
    """A checkpoint that was trained to downscale to the grid of `fine`."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        coarse: CoarseGrid,
        fine: PackedSource,
        *,
        variables: Sequence[str] | None,
        device: torch.device,
        precision: Precision = "float32",
    ) -> None:
        """Build the model for a coarse source; `fine` gives static fields and, in `anomaly` mode, the climatology.

        Raises:
            UserError: a checkpoint of another task or fine grid, or no variable in common.
        """
        metadata = checkpoint.metadata
        check_target_grid(checkpoint, fine)
        wanted = [v for v in metadata.out_variables if variables is None or v in variables]
        inputs, self.variables = choose_variables(
            coarse.channels, fine, metadata.config.variables, metadata.in_variables, wanted
        )
        dynamic = [v for v in inputs if not lookup(v).static]
        self._norm, self._fine, self._device = metadata.normalisation, fine, device
        self._where = pad_grid(fine.grid, metadata.config.height, metadata.config.width, fine.name)
        self._network = CheckpointNetwork(checkpoint, inputs, self.variables, device, precision=precision, skip=False)
        self._interpolate = Interpolator(coarse.grid, self._where.grid, dtype=_DTYPE, device=torch.device("cpu"))
        self._in = [list(coarse.channels).index(v) for v in dynamic]
        self._dynamic, self._skip = dynamic, [dynamic.index(v) if v in dynamic else None for v in self.variables]
        static_SHW = static_fields(fine, inputs[len(dynamic) :], metadata.normalisation, self._where)
        self._static_SHW = torch.from_numpy(static_SHW)
        self.needs_climatology = metadata.normalisation.mode == "anomaly"
        self._fine_places = [fine.channels.index(v) for v in self.variables]

    def fine(self, coarse: CoarseFields) -> Array:
        """Downscaled fields (B, O, H, W).

        Raises:
            UserError: the output is not finite; `anomaly` mode and no climatology of a date.
        """
        norm, x_BIhw = self._norm, coarse.fields_BChw[:, self._in]
        scale = norm.anomaly_std if self.needs_climatology else norm.std
        if self.needs_climatology:
            assert coarse.climatology_BChw is not None
            x_BIhw = x_BIhw - coarse.climatology_BChw[:, self._in]
        else:
            x_BIhw = x_BIhw - _column(norm.mean, self._dynamic)
        x_BIHW = self._interpolate(torch.from_numpy(x_BIhw / _column(scale, self._dynamic)))
        static_BSHW = self._static_SHW.expand(len(x_BIHW), *self._static_SHW.shape)
        x_BVHW = to_device(torch.cat([x_BIHW.float(), static_BSHW], dim=1), self._device)
        net_BOHW = self._network(x_BVHW, torch.zeros(len(x_BVHW), device=self._device)).to("cpu", _DTYPE)
        y_BOHW = self._where.cut(self._output(net_BOHW, x_BIHW)).numpy() * _column(scale, self.variables)
        if not np.isfinite(y_BOHW).all():
            raise UserError("the downscaled fields are not finite: the training diverged; use an older checkpoint")
        return physically_possible(y_BOHW + self._normal(coarse.dates), self.variables)

    def _output(self, net_BOHW: Tensor, x_BIHW: Tensor) -> Tensor:
        """In `anomaly` mode r·(interpolated anomaly) + s·network."""
        if not self.needs_climatology:
            return net_BOHW
        r, s = (
            torch.from_numpy(_column({v: t[v][0] for v in self.variables}, self.variables))
            for t in (self._norm.r, self._norm.s)
        )
        return r * skipped(x_BIHW, self._skip).nan_to_num(0.0) + s * net_BOHW

    def _normal(self, dates: Sequence[cftime.datetime]) -> Array:
        """The fields to add back: the fine climatology of the dates (B, O, H, W), or the mean of the normalisation."""
        if not self.needs_climatology:
            return _column(self._norm.mean, self.variables)
        fine, places = self._fine, self._fine_places
        z_BOHW = np.stack([fine.read_climatology_of(date)[places] for date in dates])
        return z_BOHW * fine.std_C[places][:, None, None] + fine.mean_C[places][:, None, None]


def check_target_grid(checkpoint: Checkpoint, fine: PackedSource) -> None:
    """Refuse a checkpoint that was not trained to downscale to this source's grid.

    Raises:
        UserError: names the checkpoint and its task or grid.
    """
    check_task(checkpoint, "downscaling")
    trained = checkpoint.metadata.training
    assert trained is not None
    if not trained.cells().same_as(fine.grid):
        raise UserError(
            f"checkpoint {checkpoint.path} downscales to another grid than that of source {fine.name}: give the fine "
            "data set that it was trained on"
        )


def _column(table: dict[str, float], names: Sequence[str]) -> Array:
    """Values of these variables (O, 1, 1)."""
    return np.array([table[v] for v in names], np.float64)[:, None, None]
