"""What defines a training task: data, network, loss. Loop, engine, checkpoints, guards and validation are shared.

`TrainingTask` is forecasting; a task of `climax_hpc.tasks` inherits from it and overrides what differs. The loop
needs `prepare_data`, whose builders say what to read (`spec`) and assemble micro-batches
(`climax_hpc.data.batches.BatchBuilder`), and `loss`, which takes what they assemble.
"""

from functools import cached_property
from typing import Any

import torch
from torch import nn

from climax_hpc.checkpoint.format import Checkpoint
from climax_hpc.checkpoint.regional import choose_domain, place_positions, regional_checkpoint, regional_config
from climax_hpc.config.training import PretrainConfig
from climax_hpc.data.dataset import DataSet
from climax_hpc.data.normalisation import Normalisation
from climax_hpc.data.shared_work import open_dataset
from climax_hpc.fields.regional_grid import Domain
from climax_hpc.model import ModelConfig, build_network
from climax_hpc.model.band import RowBand
from climax_hpc.training.data_setup import TrainingData, prepare_data
from climax_hpc.training.loss import Members, batch_loss
from climax_hpc.training.validation import Validation, prepare_validation


class TrainingTask:
    """Forecasting: state of a source at one time -> its state a lead time later."""

    def __init__(self, config: PretrainConfig, start: Checkpoint | None = None) -> None:
        """`start`: the checkpoint that training starts from."""
        self.config, self._start = config, start
        self.band: RowBand | None = None
        """The rows that this rank owns of every sample; None: all. Set before the data are prepared."""

    @cached_property
    def dataset(self) -> DataSet:
        """The packed data set of the config; all ranks ask for it together.

        Raises:
            UserError: it does not exist or is damaged.
        """
        return open_dataset(self.config.data.dataset)

    @cached_property
    def domain(self) -> Domain | None:
        """The domain of a regional model (`data.region`); None for a global model.

        Raises:
            UserError: the region does not suit model, data or checkpoint.
        """
        data = self.config.data
        sources = self.dataset.select(data.sources) if data.region is not None else []
        return choose_domain(data.region, self.config.model, self._start, sources)

    @property
    def model(self) -> ModelConfig:
        """Model config as given, or with the rows and columns of the region."""
        return regional_config(self.config.model, self.domain) if self.domain else self.config.model

    def adapted(self, start: Checkpoint | None) -> Checkpoint | None:
        """The checkpoint with the weights that the network starts from."""
        return regional_checkpoint(start, self.domain) if start and self.domain else start

    @property
    def data_sha256(self) -> str:
        """Hash of all data that the run uses: a run resumes only with the same data."""
        return self.dataset.manifest_sha256

    def prepare_data(self, base: Normalisation | None) -> TrainingData:
        """Sampler, batch builders, normalisation (`base` for the variables that it contains) and latitude weights.

        Raises:
            UserError: the data do not match the config.
        """
        return prepare_data(self.config, self.dataset, base, self.domain, self.band)

    def prepare_validation(self, data: TrainingData) -> Validation | None:
        """Validation setup; None without a validation period."""
        return prepare_validation(self.config, self.dataset, data, self.loss, self.domain, self.band)

    def build_network(self) -> nn.Module:
        """Network with random weights from torch's generator, which the caller has seeded; it has a `.config`."""
        network = build_network(self.model)
        if self.domain:
            place_positions(network, self.domain)
        return network

    def loss(self, engine: Any, batch: Any, weight_H: torch.Tensor) -> torch.Tensor:
        """Loss of one micro-batch, a scalar; `engine` calls the network, which is `engine.module`."""
        train = self.config.train
        return batch_loss(engine, batch, weight_H, Members(count=train.members, alpha=train.crps_alpha))
