"""A trained climate projection: years of forcings of a packed source in, fields in physical units out.

Dimensions: N years projected · T years of input · V inputs · O outputs · H, W grid.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from climax_hpc.checkpoint.format import Checkpoint, check_task
from climax_hpc.config.inference import Precision
from climax_hpc.data.dataset import check_grids
from climax_hpc.data.device_copy import to_device
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.inference.precision import load_network
from climax_hpc.tasks.climate_projection.yearly_data import check_holds, fields

Array = NDArray[np.float64]


class ProjectionModel:
    """One checkpoint of the task."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        *,
        batch_size: int = 16,
        precision: Precision = "float32",
    ) -> None:
        """Build its network.

        Raises:
            UserError: the checkpoint is of another task.
        """
        metadata = checkpoint.metadata
        check_task(checkpoint, "projection")
        model = metadata.config
        self.years, self.variables, self.inputs = model.years, model.projected, metadata.in_variables
        self._config, self._norm, self._device, self._batch = model, metadata.normalisation, device, batch_size
        self._cells = metadata.training.cells() if metadata.training else None
        self._network = load_network(checkpoint, device, precision)

    def check(self, source: PackedSource) -> None:
        """Refuse a source on another grid or without one of the forcings.

        Raises:
            UserError: names the source.
        """
        check_grids([source], self._config.height, self._config.width, self._cells)
        check_holds(source, self.inputs, "an input of the model")

    @torch.inference_mode()
    def project(self, source: PackedSource, years: Sequence[int]) -> Array:
        """Fields (N, O, H, W) at these time indices in physical units; the source must have the years before each."""
        self.check(source)
        y_parts = []
        mean_O, std_O = (np.array([table[v] for v in self.variables]) for table in (self._norm.mean, self._norm.std))
        for first in range(0, len(years), self._batch):
            some = years[first : first + self._batch]
            known = {t: self._input(source, t) for year in some for t in range(year - self.years + 1, year + 1)}
            x_NTVHW = torch.stack(
                [torch.stack([known[t] for t in range(year - self.years + 1, year + 1)]) for year in some]
            )
            leads_N = torch.zeros(len(some), device=self._device)
            z_NOHW = self._network(to_device(x_NTVHW, self._device), leads_N, self.inputs, self.variables)
            y_parts.append(z_NOHW.double().cpu().numpy() * std_O[:, None, None] + mean_O[:, None, None])
        return np.concatenate(y_parts)

    def _input(self, source: PackedSource, time_index: int) -> torch.Tensor:
        """Normalised input (V, H, W) of one year."""
        mean_V, std_V = (np.array([table[v] for v in self.inputs]) for table in (self._norm.mean, self._norm.std))
        x_VHW = (fields(source, self.inputs, time_index) - mean_V[:, None, None]) / std_V[:, None, None]
        return torch.from_numpy(x_VHW).float()
