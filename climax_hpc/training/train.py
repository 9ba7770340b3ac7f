"""The training loop: batch -> forward -> loss -> backward -> guard -> step -> log -> checkpoint -> maybe stop."""

import gc
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import torch

from climax_hpc.checkpoint.format import Checkpoint
from climax_hpc.config.training import PretrainConfig
from climax_hpc.data.batches import batches
from climax_hpc.distributed import process_group
from climax_hpc.distributed.signals import Stopped
from climax_hpc.training.deepspeed_engine import set_learning_rate, torch_as_before
from climax_hpc.training.optimizer import learning_rate
from climax_hpc.training.resume import ResumePoint, load
from climax_hpc.training.rollback import roll_back
from climax_hpc.training.setup import TrainingSetup, prepare_training
from climax_hpc.training.state import TrainingState
from climax_hpc.training.step_guard import StepGuard, is_spike
from climax_hpc.training.supervision import RunMonitor, supervise
from climax_hpc.training.task import TrainingTask


def pretrain(config: PretrainConfig) -> None:
    """Pretrain from random weights, or go on where an interrupted run stopped."""
    train(config, start=None)


def train(config: PretrainConfig, start: Checkpoint | None, task: TrainingTask | None = None) -> None:
    """Train `config.train.steps` optimiser steps, from random weights or from those of `start`; forecasting by default.

    Raises:
        UserError: bad input, or training that diverges; the message names the place and the mend.
        Stopped: on a stop signal, after a checkpoint (exit status 75).
        RankLost: another rank is gone (exit status 76).
    """
    setup = prepare_training(config, start, task or TrainingTask(config, start))
    if setup is None:
        return
    watched = supervise(setup.world, setup.run_folder, setup.progress, hang_timeout=config.train.hang_timeout)
    with torch_as_before(), watched as monitor:
        resume_point: ResumePoint | None = setup.resume_point
        while resume_point:
            resume_point = train_from(resume_point, setup, monitor)
            gc.collect()  # an engine is full of cycles, and the next one needs its memory


def train_from(resume_point: ResumePoint, setup: TrainingSetup, monitor: RunMonitor) -> ResumePoint | None:
    """Train from a checkpoint to the end, or up to a loss spike: then, the checkpoint to go back to."""
    config, data, world, progress = setup.config, setup.data, setup.world, setup.progress
    engine, ema = setup.build_model(resume_point)
    load(resume_point, engine=engine, ema=ema)
    state, steps = resume_point.state, config.train.steps
    sampler = data.sampler.without(state.skipped)
    stream = batches(
        sampler,
        data.builders,
        first_step=state.step,
        steps=steps,
        rank=world.rank,
        ranks=world.size,
        read_threads=config.data.read_threads,
        prefetch_micro_batches=config.data.prefetch_micro_batches,
    )
    first = list(islice(stream, 1))  # unreadable data are refused before anything is written
    guard = StepGuard(
        engine.module,
        micro_batches=setup.micro_batches,
        rank=world.rank,
        check_gradients=config.train.precision != "float16",
    )
    process_group.on_all(lambda: progress.begin(state.step))

    for step, micro_batch, batch in chain(first, stream):
        monitor.heartbeat.at(f"step {step}")
        rate = learning_rate(step, steps, config.optimizer)
        set_learning_rate(engine, rate)
        torch.manual_seed(micro_batch.key)  # dropout depends on the micro-batch, not on the rank that computes it
        loss = setup.task.loss(engine, batch, data.weight_H)
        engine.backward(loss)
        last = guard.add(micro_batch, loss)
        if last:
            status = guard.agree(step, stop=monitor.signals.received is not None)
        engine.step()
        monitor.heartbeat.at(f"reading data after step {step}")
        if not last:
            continue
        if ema:
            ema.update(engine, step)
        mean = status.loss.item()
        if is_spike(mean, state.recent_losses, config.train.spike_factor):
            back = roll_back(setup, state, sampler.batch_of(step), mean)
            if back:
                return back
        state = state.after_step(mean)
        progress.step(state.step, status.loss, rate)
        state = review(setup, state, engine, monitor)
        if is_due(setup, state) or status.stop:
            monitor.heartbeat.at(f"writing the checkpoint of step {state.step}")
            setup.save(engine, ema, state)
        if state.finished:
            progress.end("finished")
            break
        if status.stop:
            reason = monitor.signals.received.name if monitor.signals.received else "a stop signal to another rank"
            progress.end(
                "stopped", f"stopped by {reason} after the checkpoint of step {state.step}; start again to go on"
            )
            raise Stopped
    return None


def review(setup: TrainingSetup, state: TrainingState, engine: Any, monitor: RunMonitor) -> TrainingState:
    """Validate where it is time to, and decide whether the run has finished."""
    train = setup.config.train
    last = state.step == train.steps
    if setup.validation and (last or state.step % train.validate_every == 0):
        monitor.heartbeat.at(f"validation after step {state.step}")
        loss = setup.validation.loss(engine)
        setup.progress.validation(state.step, loss)
        state = state.after_validation(loss, keep=train.keep_best)
    bored = train.patience > 0 and state.stale_validations >= train.patience
    return replace(state, finished=last or bored, ranks=setup.world.size)


def is_due(setup: TrainingSetup, state: TrainingState) -> bool:
    """Is it time for a checkpoint: every so many steps, at the end, and where the validation loss is among the best?"""
    train = setup.config.train
    best = train.keep_best > 0 and state.validation_loss is not None and state.validation_loss in state.best_losses
    return state.finished or best or state.step % train.checkpoint_every == 0
