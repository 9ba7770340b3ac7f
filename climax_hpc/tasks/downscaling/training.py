"""Task `downscaling`: training on pairs of coarse and fine fields with the common training loop.

The model works on the fine grid, so a checkpoint on another grid or with other variables needs `transfer: true`.
"""

from collections.abc import Mapping
from functools import cached_property

import torch

from climax_hpc.checkpoint.metadata import TrainingMetadata
from climax_hpc.config.training import FinetuneConfig
from climax_hpc.data.normalisation import Normalisation
from climax_hpc.data.shared_work import read_by_first
from climax_hpc.distributed import process_group
from climax_hpc.errors import UserError
from climax_hpc.fields.grid import latitude_weights
from climax_hpc.fields.variables import in_registry_order
from climax_hpc.tasks.downscaling.batches import PairBatchBuilder, choose_variables
from climax_hpc.tasks.downscaling.grids import PaddedGrid, pad_grid
from climax_hpc.tasks.downscaling.normalisation import fit_pair_normalisation
from climax_hpc.tasks.downscaling.pairs import PairedData, PairedSource
from climax_hpc.tasks.forecast import starting_weights
from climax_hpc.training.data_setup import TrainingData, check_variables, training_sampler, with_periods
from climax_hpc.training.task import TrainingTask
from climax_hpc.training.train import train
from climax_hpc.training.validation import Validation, validation_of
from climax_hpc.training.variable_weights import variable_weights, weight_tensor


def finetune(config: FinetuneConfig) -> None:
    """Train to downscale, from a checkpoint or from random weights; `data.dataset` is the file of `climax-hpc pair`.

    Raises:
        UserError: as `train`; no file of pairs; settings that do not apply to downscaling.
    """
    train(config, starting_weights(config), DownscalingTask(config))


class DownscalingTask(TrainingTask):
    """Fine fields from coarse fields of the same time."""

    @cached_property
    def pairs(self) -> PairedData:
        """Both data sets.

        Raises:
            UserError: see `PairedData`.
        """
        return PairedData(self.config.data.dataset)

    @property
    def data_sha256(self) -> str:
        """Hash of the file of pairs, which holds the hashes of both manifests."""
        return self.pairs.sha256

    def prepare_data(self, base: Normalisation | None) -> TrainingData:
        """Sampler, batch builders, normalisation and latitude weights; see `TrainingTask`."""
        config, data = self.config, self.config.data
        self._check()
        sources = self.pairs.select(data.sources)
        check_variables(config, [one for source in sources for one in (source.coarse, source.fine)])
        model = config.model
        chosen = {
            s.name: choose_variables(s.coarse.channels, s.fine, model.variables, data.in_variables, data.out_variables)
            for s in sources
        }
        outputs = in_registry_order(name for _, names in chosen.values() for name in names)
        known = base if base and base.mode == model.output_mode else None
        normalisation = read_by_first(
            lambda: fit_pair_normalisation(
                sources, outputs=outputs, mode=model.output_mode, period=data.period, base=known
            )
        )
        weights = variable_weights(data.variable_weights, outputs)
        builders = {s.name: self._builder(s, normalisation, *chosen[s.name], weights) for s in sources}
        where = self._padded_grid(sources[0])
        return TrainingData(
            sampler=training_sampler(config, {s.name: s.times(data.period) for s in sources}, self.pairs.full_name),
            builders=builders,
            normalisation=normalisation,
            in_variables=tuple(in_registry_order(v for builder in builders.values() for v in builder.inputs)),
            out_variables=tuple(outputs),
            weight_H=torch.as_tensor(
                latitude_weights(where.grid, data.latitude_weights), dtype=torch.float32, device=process_group.device()
            ),
            training_metadata=with_periods(
                TrainingMetadata(
                    task="downscaling",
                    min_lead_hours=0.0,
                    max_lead_hours=0.0,
                    lead_step_hours=sources[0].fine.step_hours,
                    grid=where.fine.to_dict(),
                ),
                self.config.data,
                [s.name for s in sources],
            ),
            variable_weights=weights,
        )

    def prepare_validation(self, data: TrainingData) -> Validation | None:
        """Validation on the validation period; None if the config has none."""
        wanted = self.config.data
        if wanted.validation_period is None:
            return None
        sources = self.pairs.select(wanted.sources)
        spans = {s.name: s.times(wanted.validation_period) for s in sources}
        return validation_of(self.config, sources, spans, data.builders, data.weight_H, self.loss)

    def _padded_grid(self, source: PairedSource) -> PaddedGrid:
        model = self.config.model
        return pad_grid(source.fine.grid, model.height, model.width, source.name)

    def _builder(
        self,
        source: PairedSource,
        normalisation: Normalisation,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        weights: Mapping[str, float],
    ) -> PairBatchBuilder:
        return PairBatchBuilder(
            source,
            normalisation,
            inputs=inputs,
            outputs=outputs,
            where=self._padded_grid(source),
            device=process_group.device(),
            variable_weight_O=weight_tensor(weights, outputs, f"source {source.name}", process_group.device()),
        )

    def _check(self) -> None:
        data = self.config.data
        if data.random_roll or data.random_flip:
            raise UserError("data.random_roll and data.random_flip need a global grid: switch them off to downscale")
        if data.stage_to is not None:
            raise UserError("data.stage_to: pairs are read in place; leave it out to downscale")
