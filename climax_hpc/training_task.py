"""What a training run is of: data, network, loss. Loop, engine, checkpoints, guards and validation serve every task.

`TrainingTask` is forecasting, as in pretraining; a task of `climax_hpc.tasks` inherits it and replaces what differs.
What the loop asks of a task's batches: `prepare_data` gives makers that read (`layout`) and assemble groups
(`climax_hpc.data.batches.Maker`), and `loss` takes what they make.
"""

from functools import cached_property
from typing import Any

import torch
from torch import nn

from climax_hpc.config import PretrainConfig
from climax_hpc.data.normalisation import Normalisation
from climax_hpc.data.shards import DataSet
from climax_hpc.loss import batch_loss
from climax_hpc.model import build_network
from climax_hpc.training_data import TrainingData, prepare_data
from climax_hpc.validation import Validation, prepare_validation


class TrainingTask:
    """Forecasting: the state of a source at one time -> its state a lead time later."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config

    @cached_property
    def dataset(self) -> DataSet:
        """The packed data set of the config.

        Raises:
            UserError: there is none, or a damaged one.
        """
        return DataSet(self.config.data.dataset)

    @property
    def data_sha256(self) -> str:
        """Identity of all data that the run depends on: a run folder goes on with the same alone."""
        return self.dataset.manifest_sha256

    def prepare_data(self, base: Normalisation | None) -> TrainingData:
        """Order, batch makers, units (`base` for the variables that it has) and latitude weights.

        Raises:
            UserError: data that do not fit the config.
        """
        return prepare_data(self.config, self.dataset, base)

    def prepare_validation(self, data: TrainingData) -> Validation | None:
        """The same of the validation period; None where there is none."""
        return prepare_validation(self.config, self.dataset, data, self.loss)

    def build_network(self) -> nn.Module:
        """The network with random weights from torch's own generator, which is seeded before; it has a `.config`."""
        return build_network(self.config.model)

    def loss(self, engine: Any, batch: Any, weight_H: torch.Tensor) -> torch.Tensor:
        """Loss of one group, a scalar; `engine` calls the network, which is `engine.module`."""
        return batch_loss(engine, batch, weight_H)
