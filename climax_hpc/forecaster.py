"""A trained model ready to forecast: weights and units from a checkpoint, truth-shaped batches in, fields out."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from climax_hpc.checkpoint import Pretrained, load_pretrained
from climax_hpc.data.batches import Batch, BatchMaker, choose_variables, samples_batch
from climax_hpc.data.order import Sample
from climax_hpc.data.shards import Source
from climax_hpc.model.climax import ClimaX
from climax_hpc.model.output_modes import forecast_from_network
from climax_hpc.training_data import check_grids


class Forecaster:
    """Forecasts of one source by one checkpoint, in the shards' z-scores of that source.

    Dimensions: B samples · O output variables · H, W grid.
    """

    def __init__(
        self, pretrained: Pretrained, source: Source, *, variables: Sequence[str] | None, device: torch.device
    ) -> None:
        """Build the model for a source; `variables` limits the outputs.

        Raises:
            UserError: the source lies on another grid, or shares no variable with the model.
        """
        about = pretrained.about
        check_grids([source], about.config.height, about.config.width)
        wanted = [v for v in about.out_variables if variables is None or v in variables]
        inputs, outputs = choose_variables(source, about.config.variables, about.in_variables, wanted)
        norm = about.normalisation
        self._model = ClimaX(about.config)
        self._model.load_state_dict(pretrained.weights)
        self._model.to(device).eval()
        self._maker = BatchMaker(source, norm, inputs=inputs, outputs=outputs, device=device)
        self._source, self._mode = source, norm.mode
        self.variables: tuple[str, ...] = tuple(outputs)
        """Registry names of the outputs."""
        self.inputs: tuple[str, ...] = tuple(inputs)
        """Registry names of what the network is fed with."""

    @classmethod
    def load(
        cls,
        path: str | Path,
        source: Source,
        *,
        variables: Sequence[str] | None = None,
        device: torch.device | None = None,
    ) -> "Forecaster":
        """From a run or checkpoint folder, verified."""
        return cls(load_pretrained(path), source, variables=variables, device=device or torch.device("cpu"))

    @torch.inference_mode()
    def forecast(self, samples: Sequence[Sample]) -> Tensor:
        """Forecasts (B, O, H, W) for (time, lead) samples, in the source's z-scores (value - mean) / std.

        In `anomaly` mode the climatology of the valid time is added back.
        """
        batch = samples_batch(self._maker, self._source.name, samples)
        return self._maker.to_shard_units(self._model_units(batch), samples)

    def _model_units(self, batch: Batch) -> Tensor:
        net_BOHW = self._model(batch.x_BVHW, batch.lead_hours_B, batch.in_variables, batch.out_variables)
        if batch.skip_BOHW is None or batch.r_BO is None or batch.s_BO is None:
            return net_BOHW
        return forecast_from_network(net_BOHW, batch.skip_BOHW, batch.r_BO, batch.s_BO)
