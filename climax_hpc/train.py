"""The training loop: batch -> forward -> loss -> guard -> backward -> step -> log -> checkpoint."""

from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from climax_hpc import checkpoint, dist
from climax_hpc.config import PretrainConfig
from climax_hpc.data.batches import Batch, batches
from climax_hpc.data.shards import DataSet
from climax_hpc.ema import Ema
from climax_hpc.engine import build_engine, set_learning_rate
from climax_hpc.guard import check_loss
from climax_hpc.kernels.dispatch import forced_form
from climax_hpc.kernels.lat_weighted_loss.op import lat_weighted_loss
from climax_hpc.launcher import World
from climax_hpc.model.climax import ClimaX
from climax_hpc.optim import learning_rate
from climax_hpc.progress import Progress
from climax_hpc.runfolder import RunFolder
from climax_hpc.training_data import prepare_data


def pretrain(config: PretrainConfig) -> None:
    """Pretrain from random weights, or go on where an interrupted run stopped."""
    train(config, start=None)


def train(config: PretrainConfig, start: checkpoint.Pretrained | None) -> None:
    """Train `config.train.steps` optimiser steps, from random weights or from those of `start`.

    Raises:
        UserError: bad input, a rank count that does not divide data.groups_per_step, or a non-finite loss.
    """
    forced_form()  # refuses a bad choice of kernels before anything is written
    world = dist.connect()
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    dataset = DataSet(config.data.dataset)
    data = prepare_data(config, dataset, start.about.normalisation if start else None)
    data.order.groups(0, ranks=world.size)  # refuses a bad rank count before anything is written
    path = Path(config.run_folder)
    run = dist.on_first(lambda: RunFolder(path, config, world=world, manifest_sha256=dataset.manifest_sha256))
    engine, ema = build_model(config, start, world)
    first_step = checkpoint.resume(path / "checkpoints", engine=engine, ema=ema)
    stream = batches(
        data.order, data.makers, first_step=first_step, steps=config.train.steps, rank=world.rank, ranks=world.size
    )
    first = list(islice(stream, 1))  # unreadable data are refused before anything is written
    progress = Progress(run, config.train, config.data, first_step=first_step, task=path.name)
    groups = config.data.groups_per_step // world.size
    pending = torch.zeros((), device=dist.device())

    for number, (step, group, batch) in enumerate(chain(first, stream), start=1):
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
            about = checkpoint.About(
                step=step + 1,
                config=config.model,
                normalisation=data.normalisation,
                in_variables=data.in_variables,
                out_variables=data.out_variables,
            )
            checkpoint.save(
                path / "checkpoints", engine=engine, ema=ema, about=about, keep=config.train.keep_checkpoints
            )
    progress.close()


def build_model(config: PretrainConfig, start: checkpoint.Pretrained | None, world: World) -> tuple[Any, Ema | None]:
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


def batch_loss(engine: Any, batch: Batch, weight_H: torch.Tensor) -> torch.Tensor:
    """Latitude-weighted mean square error of one group, in the network's units."""
    h_BLPO = engine(batch.x_BVHW, batch.lead_hours_B, batch.in_variables, batch.out_variables, patched=True)
    return lat_weighted_loss(h_BLPO, batch.network_target(), weight_H, engine.module.config.patch)[0]
