"""The training loop: batch -> forward -> loss -> guard -> backward -> step -> log -> checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from climax_hpc import checkpoint, dist
from climax_hpc.config import PretrainConfig
from climax_hpc.data.batches import Batch, BatchMaker, batches, choose_variables
from climax_hpc.data.normalisation import Normalisation, fit_normalisation
from climax_hpc.data.order import SampleOrder
from climax_hpc.data.shards import DataSet, Source
from climax_hpc.ema import Ema
from climax_hpc.engine import build_engine, set_learning_rate
from climax_hpc.errors import UserError
from climax_hpc.grid import latitude_weights
from climax_hpc.guard import check_loss
from climax_hpc.kernels.lat_weighted_loss.op import lat_weighted_loss
from climax_hpc.model.climax import ClimaX
from climax_hpc.optim import learning_rate
from climax_hpc.progress import Progress
from climax_hpc.runfolder import RunFolder


def pretrain(config: PretrainConfig) -> None:
    """Pretrain from random weights, or go on where an interrupted run stopped."""
    train(config, start=None)


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Everything the loop needs of the data."""

    order: SampleOrder
    makers: dict[str, BatchMaker]
    normalisation: Normalisation
    weight_H: torch.Tensor


def train(config: PretrainConfig, start: checkpoint.Pretrained | None) -> None:
    """Train `config.train.steps` optimiser steps, from random weights or from those of `start`.

    Raises:
        UserError: bad input, a rank count that does not divide data.groups_per_step, or a non-finite loss.
    """
    world = dist.connect()
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    dataset = DataSet(config.data.dataset)
    data = prepare_data(config, dataset, start.normalisation if start else None)
    data.order.groups(0, ranks=world.size)  # refuses a bad rank count before anything is written
    run = (
        RunFolder(Path(config.run_folder), config, world=world, manifest_sha256=dataset.manifest_sha256)
        if world.is_first
        else None
    )
    engine, ema = build_model(config, start, world)
    folder = Path(config.run_folder) / "checkpoints"
    first_step = checkpoint.resume(folder, engine=engine, ema=ema)
    progress = Progress(run, config.train, config.data, first_step=first_step, task=Path(config.run_folder).name)
    groups = config.data.groups_per_step // world.size
    pending = torch.zeros((), device=dist.device())

    stream = batches(
        data.order, data.makers, first_step=first_step, steps=config.train.steps, rank=world.rank, ranks=world.size
    )
    for number, (step, group, batch) in enumerate(stream, start=1):
        set_learning_rate(engine, learning_rate(step, config.train.steps, config.optim))
        torch.manual_seed(group.key)  # dropout depends on the group, not on the rank that computes it
        loss = batch_loss(engine, batch, data.weight_H)
        check_loss(loss, step=step, rank=world.rank, group=group)
        engine.backward(loss)
        engine.step()
        pending += loss.detach() / groups
        if number % groups:
            continue
        if ema:
            ema.update(engine.module, step)
        progress.step(step + 1, dist.mean_over_ranks(pending), learning_rate(step, config.train.steps, config.optim))
        pending.zero_()
        if (step + 1) % config.train.checkpoint_every == 0 or step + 1 == config.train.steps:
            checkpoint.save(
                folder,
                engine=engine,
                ema=ema,
                step=step + 1,
                config=config.model,
                normalisation=data.normalisation,
                keep=config.train.keep_checkpoints,
            )
    progress.close()


def prepare_data(config: PretrainConfig, dataset: DataSet, base: Normalisation | None) -> TrainingData:
    """Order, batch makers, normalisation and latitude weights of a training run."""
    data = config.data
    sources = dataset.select(data.sources)
    check_grids(sources, config.model.height, config.model.width)
    spans = {s.name: s.times(data.period, data.min_lead_hours, data.max_lead_hours) for s in sources}
    weights = {dataset.full_name(name): w for name, w in data.weights.items()} if data.weights else None
    order = SampleOrder(
        spans,
        seed=config.train.seed,
        group_size=data.group_size,
        groups_per_step=data.groups_per_step,
        weights=weights,
        lead_exponent=data.lead_exponent,
    )
    chosen = {
        s.name: choose_variables(s, config.model.variables, data.in_variables, data.out_variables) for s in sources
    }
    normalisation = fit_normalisation(
        sources,
        mode=config.model.output_mode,
        period=data.period,
        min_lead_hours=data.min_lead_hours,
        max_lead_hours=data.max_lead_hours,
        base=base,
    )
    makers = {
        s.name: BatchMaker(
            s,
            normalisation,
            inputs=chosen[s.name][0],
            outputs=chosen[s.name][1],
            device=dist.device(),
            random_roll=data.random_roll,
            random_flip=data.random_flip,
        )
        for s in sources
    }
    weight_H = latitude_weights(sources[0].grid, data.latitude_weights)
    return TrainingData(
        order=order,
        makers=makers,
        normalisation=normalisation,
        weight_H=torch.as_tensor(weight_H, dtype=torch.float32, device=dist.device()),
    )


def check_grids(sources: list[Source], height: int, width: int) -> None:
    """Refuse sources on another grid than the model's.

    Raises:
        UserError: names the source, its grid and the mend.
    """
    for source in sources:
        if source.grid.shape != (height, width):
            raise UserError(
                f"source {source.name} lies on a grid of {source.grid.shape[0]} × {source.grid.shape[1]}, the model on "
                f"{height} × {width}: set model.height and model.width, or pack with another grid_spacing_deg"
            )


def build_model(
    config: PretrainConfig, start: checkpoint.Pretrained | None, world: dist.World
) -> tuple[Any, Ema | None]:
    """The engine around a model with seeded or given weights, and the moving average where asked for."""
    torch.manual_seed(config.train.seed)
    model = ClimaX(config.model)
    if start:
        model.load_state_dict(start.weights)
    model.to(dist.device()).train()
    engine = build_engine(
        model,
        train=config.train,
        optim=config.optim,
        group_size=config.data.group_size,
        groups_per_rank=config.data.groups_per_step // world.size,
    )
    return engine, Ema(engine.module, config.train.ema_decay) if config.train.ema_decay else None


def batch_loss(model: Any, batch: Batch, weight_H: torch.Tensor) -> torch.Tensor:
    """Latitude-weighted mean square error of one group, in the network's units."""
    x_BVHW = batch.x_BVHW.to(next(model.parameters()).dtype)
    h_BLPO = model(x_BVHW, batch.lead_hours_B, batch.in_variables, batch.out_variables, patched=True)
    patch = model.module.config.patch if hasattr(model, "module") else model.config.patch
    return lat_weighted_loss(h_BLPO, batch.network_target(), weight_H, patch)[0]
