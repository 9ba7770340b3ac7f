"""Task `projection`: the climate of a year from the forcings of that and earlier years (ClimaX, section 4.3).

Uses the common training loop, engine, checkpoints and guards. Data (yearly sources, several years of input, lead time
0), network, and the start from a forecasting checkpoint are defined here.
"""

from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn

from climax_hpc.checkpoint.format import Checkpoint, load_checkpoint
from climax_hpc.checkpoint.metadata import CheckpointMetadata, TrainingMetadata
from climax_hpc.checkpoint.transfer import PER_VARIABLE, TransferReport, announce, check_same_model, transfer
from climax_hpc.config.training import FinetuneConfig, require
from climax_hpc.data.batch_builder import SourceBatchBuilder
from climax_hpc.data.batches import Batch
from climax_hpc.data.dataset import check_grids
from climax_hpc.data.normalisation import Normalisation
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.shared_work import read_by_first, share_headers
from climax_hpc.distributed import process_group
from climax_hpc.errors import UserError
from climax_hpc.fields.grid import latitude_weights
from climax_hpc.kernels.lat_weighted_loss.op import lat_weighted_loss
from climax_hpc.model import build_network
from climax_hpc.model.climate_projection import ProjectionClimaX
from climax_hpc.model.config import ModelConfig
from climax_hpc.tasks.climate_projection.yearly_data import check_holds, training_years, units_of
from climax_hpc.training.data_setup import TrainingData, training_sampler, with_periods
from climax_hpc.training.task import TrainingTask
from climax_hpc.training.train import train
from climax_hpc.training.validation import Validation, validation_of


def finetune(config: FinetuneConfig) -> None:
    """Train a climate projection, from a forecasting checkpoint, one of this task, or random weights.

    Raises:
        UserError: as `train`, or the config or checkpoint does not fit the task.
    """
    _check(config)
    train(config, starting_weights(config), ProjectionTask(config))


def _check(config: FinetuneConfig) -> None:
    data = config.data
    require(
        config.model.years > 0,
        "model.years = 0 makes a forecasting network: set model.years and model.projected for a climate projection",
    )
    require(
        data.out_variables is None and data.in_variables is None,
        "data.in_variables, data.out_variables: a climate projection takes model.variables and predicts "
        "model.projected; leave both out",
    )
    require(
        not (data.random_roll or data.random_flip),
        "data.random_roll and data.random_flip would move the continents: switch them off for a climate projection",
    )
    require(data.stage_to is None, "data.stage_to: yearly data are small; leave it out for a climate projection")
    if config.frozen:
        require(config.model.kind == "climax", f"frozen: a {config.model.kind} has no pretrained blocks to freeze")
        require(
            config.checkpoint is not None,
            "frozen keeps the transformer blocks unchanged, which are random without a checkpoint: set checkpoint",
        )
        require(
            config.train.zero_stage == 0,
            f"frozen with train.zero_stage {config.train.zero_stage}: use stage 0, where the frozen weights stay whole",
        )


class ProjectionTask(TrainingTask):
    """The climate of a year from the forcings of that and the preceding years."""

    config: FinetuneConfig

    def prepare_data(self, base: Normalisation | None) -> TrainingData:
        """Sampler, batch builders, normalisation and latitude weights.

        The normalisation is fitted on the training years. Inputs that `base` knows keep its values, which their tokens
        were trained with. Targets are always fitted: those of ClimateBench are departures from a control run.

        Raises:
            UserError: the data do not fit the config.
        """
        config, data = self.config.model, self.config.data
        sources = self.dataset.select(data.sources)
        share_headers(sources)
        check_grids(sources, config.height, config.width)
        for source in sources:
            check_holds(source, config.variables, "which is in model.variables")
            check_holds(source, config.projected, "which is in model.projected")
        spans = {s.name: training_years(s, data.period, config.years) for s in sources}
        sampler = training_sampler(self.config, spans, self.dataset.full_name)
        names = [*config.variables, *config.projected]
        mean, std = read_by_first(lambda: units_of(sources, names, data.period))
        if base:
            known = [name for name in config.variables if name in base.mean and name in base.std]
            mean |= {name: base.mean[name] for name in known}
            std |= {name: base.std[name] for name in known}
        units = Normalisation(mode="full", mean=mean, std=std, anomaly_std={}, lead_hours=[], r={}, s={})
        weight_H = latitude_weights(sources[0].grid, data.latitude_weights)
        return TrainingData(
            sampler=sampler,
            builders={s.name: _builder(s, config, units) for s in sources},
            normalisation=units,
            in_variables=_inputs(sources[0], config),
            out_variables=config.projected,
            weight_H=torch.as_tensor(weight_H, dtype=torch.float32, device=process_group.device()),
            training_metadata=with_periods(
                TrainingMetadata(
                    min_lead_hours=0.0,
                    max_lead_hours=0.0,
                    lead_step_hours=0.0,
                    grid=sources[0].grid.to_dict(),
                    task="projection",
                ),
                data,
                [s.name for s in sources],
            ),
        )

    def prepare_validation(self, data: TrainingData) -> Validation | None:
        """Validation on the validation period; None if the config has none."""
        config, wanted = self.config.model, self.config.data
        period = wanted.validation_period
        if period is None:
            return None
        sources = self.dataset.select(wanted.sources)
        spans = {s.name: training_years(s, period, config.years) for s in sources}
        return validation_of(self.config, sources, spans, data.builders, data.weight_H, self.loss)

    def build_network(self) -> nn.Module:
        """The network with random weights; its blocks are frozen if the config says so."""
        network = build_network(self.config.model)
        if self.config.frozen:
            assert isinstance(network, ProjectionClimaX)
            network.freeze()
        return network

    def loss(self, engine: Any, batch: Batch, weight_H: torch.Tensor) -> torch.Tensor:
        """Latitude-weighted mean square error of the last year of each window, normalised."""
        h_BLPO = engine(batch.x_BTVHW, batch.lead_hours_B, batch.in_variables, batch.out_variables, patched=True)
        return lat_weighted_loss(h_BLPO, batch.y_BOHW, weight_H, engine.module.config.patch)[0]


def _inputs(source: PackedSource, config: ModelConfig) -> tuple[str, ...]:
    """The variables of the model in the order of batches: static ones last."""
    return tuple(sorted(config.variables, key=lambda name: name in source.static))


def _builder(source: PackedSource, config: ModelConfig, units: Normalisation) -> SourceBatchBuilder:
    return SourceBatchBuilder(
        source,
        units,
        inputs=_inputs(source, config),
        outputs=config.projected,
        device=process_group.device(),
        history_steps=config.years - 1,
    )


def starting_weights(config: FinetuneConfig) -> Checkpoint | None:
    """The checkpoint of the config, transferred to its model; None for random weights.

    Raises:
        UserError: no such checkpoint, or it does not fit the model.
    """
    if config.checkpoint is None:
        return None
    start = load_checkpoint(config.checkpoint)
    if start.metadata.config.years:
        check_same_model(start, config.model)
        return start
    if not config.transfer:
        raise UserError(
            f"checkpoint {start.path} is of a forecasting model: add transfer: true to transfer its encoder to a "
            "climate projection, or train from scratch with checkpoint: null"
        )
    start = adapted(start, config.model, config.train.seed)
    announce(start)
    return start


def adapted(start: Checkpoint, model: ModelConfig, seed: int) -> Checkpoint:
    """Transfer a forecasting checkpoint to a projection: encoder and tokens by name; the rest is initialised.

    Raises:
        UserError: another kind or size of network.
    """
    old = start.metadata.config
    model = replace(model, init=old.init)
    new = [name for name in model.variables if name not in old.variables]
    # Via a forecasting model of all variables, old and new, on the new grid: one set of rules for all transfers.
    wide = replace(model, years=0, projected=(), variables=(*old.variables, *new), output_mode=old.output_mode)
    weights = transfer(start, wide, seed).weights
    torch.manual_seed(seed)
    fresh = build_network(model).state_dict()
    rows = torch.tensor([wide.variables.index(name) for name in model.variables])
    taken = {name: tensor for name, tensor in weights.items() if name in fresh}
    taken |= {name: weights[name][rows] for name in PER_VARIABLE}
    anew = sum(tensor.numel() for name, tensor in fresh.items() if name not in taken)
    anew += len(new) * sum(fresh[name][0].numel() for name in PER_VARIABLE)
    account = TransferReport(
        checkpoint=str(start.path),
        kept_variables=[name for name in model.variables if name in old.variables],
        new_variables=new,
        dropped_variables=[name for name in old.variables if name not in model.variables],
        grid=None if old.patches == model.patches else [[old.height, old.width], [model.height, model.width]],
        output_mode=None,
        parameters_kept=sum(tensor.numel() for tensor in fresh.values()) - anew,
        parameters_new=anew,
        anew="the aggregation over years and the head are initialised",
        patch=None if old.patch == model.patch else [old.patch, model.patch],
    )
    metadata = CheckpointMetadata(
        step=start.metadata.step,
        config=model,
        normalisation=start.metadata.normalisation,
        in_variables=start.metadata.in_variables,
        out_variables=start.metadata.out_variables,
    )
    return replace(start, metadata=metadata, weights=fresh | taken, transferred=asdict(account))
