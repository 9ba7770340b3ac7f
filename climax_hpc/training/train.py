"""The training loop: batch -> forward -> loss -> backward -> guard -> step -> log -> checkpoint -> maybe stop."""

import gc
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import torch

from climax_hpc.checkpoint.format import Pretrained
from climax_hpc.config.training import PretrainConfig
from climax_hpc.data.batches import batches
from climax_hpc.distributed import process_group
from climax_hpc.distributed.signals import Stopped
from climax_hpc.training.deepspeed_engine import set_learning_rate, torch_as_before
from climax_hpc.training.optimizer import learning_rate
from climax_hpc.training.resume import Origin, load
from climax_hpc.training.rollback import roll_back
from climax_hpc.training.setup import Session, open_session
from climax_hpc.training.state import TrainingState
from climax_hpc.training.step_guard import StepGuard, is_spike
from climax_hpc.training.supervision import Watch, supervise
from climax_hpc.training.task import TrainingTask


def pretrain(config: PretrainConfig) -> None:
    """Pretrain from random weights, or go on where an interrupted run stopped."""
    train(config, start=None)


def train(config: PretrainConfig, start: Pretrained | None, task: TrainingTask | None = None) -> None:
    """Train `config.train.steps` optimiser steps, from random weights or from those of `start`; forecasting by default.

    Raises:
        UserError: bad input, or training that diverges; the message names the place and the mend.
        Stopped: on a stop signal, after a checkpoint (exit status 75).
        RankLost: another rank is gone (exit status 76).
    """
    session = open_session(config, start, task or TrainingTask(config, start))
    if session is None:
        return
    watched = supervise(session.world, session.run_folder, session.progress, hang_timeout=config.train.hang_timeout)
    with torch_as_before(), watched as watch:
        origin: Origin | None = session.origin
        while origin:
            origin = train_from(origin, session, watch)
            gc.collect()  # an engine is full of cycles, and the next one needs its memory


def train_from(origin: Origin, session: Session, watch: Watch) -> Origin | None:
    """Train from a checkpoint to the end, or up to a loss spike: then, the checkpoint to go back to."""
    config, data, world, progress = session.config, session.data, session.world, session.progress
    engine, ema = session.build_model(origin)
    load(origin, engine=engine, ema=ema)
    state, steps = origin.state, config.train.steps
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
        micro_batches=session.micro_batches,
        rank=world.rank,
        check_gradients=config.train.precision != "float16",
    )
    process_group.on_all(lambda: progress.begin(state.step))

    for step, micro_batch, batch in chain(first, stream):
        watch.heartbeat.at(f"step {step}")
        rate = learning_rate(step, steps, config.optimizer)
        set_learning_rate(engine, rate)
        torch.manual_seed(micro_batch.key)  # dropout depends on the micro-batch, not on the rank that computes it
        loss = session.task.loss(engine, batch, data.weight_H)
        engine.backward(loss)
        last = guard.add(micro_batch, loss)
        if last:
            verdict = guard.agree(step, stop=watch.signals.received is not None)
        engine.step()
        watch.heartbeat.at(f"reading data after step {step}")
        if not last:
            continue
        if ema:
            ema.update(engine, step)
        mean = verdict.loss.item()
        if is_spike(mean, state.recent_losses, config.train.spike_factor):
            back = roll_back(session, state, sampler.batch_of(step), mean)
            if back:
                return back
        state = state.after_step(mean)
        progress.step(state.step, verdict.loss, rate)
        state = review(session, state, engine, watch)
        if is_due(session, state) or verdict.stop:
            watch.heartbeat.at(f"writing the checkpoint of step {state.step}")
            session.save(engine, ema, state)
        if state.finished:
            progress.end("finished")
            break
        if verdict.stop:
            reason = watch.signals.received.name if watch.signals.received else "a stop signal to another rank"
            progress.end(
                "stopped", f"stopped by {reason} after the checkpoint of step {state.step}; start again to go on"
            )
            raise Stopped
    return None


def review(session: Session, state: TrainingState, engine: Any, watch: Watch) -> TrainingState:
    """Validate where it is time to, and decide whether the run has finished."""
    train = session.config.train
    last = state.step == train.steps
    if session.validation and (last or state.step % train.validate_every == 0):
        watch.heartbeat.at(f"validation after step {state.step}")
        loss = session.validation.loss(engine)
        session.progress.validation(state.step, loss)
        state = state.after_validation(loss, keep=train.keep_best)
    bored = train.patience > 0 and state.stale_validations >= train.patience
    return replace(state, finished=last or bored, ranks=session.world.size)


def is_due(session: Session, state: TrainingState) -> bool:
    """Is it time for a checkpoint: every so many steps, at the end, and where the validation loss is among the best?"""
    train = session.config.train
    best = train.keep_best > 0 and state.validation_loss is not None and state.validation_loss in state.best_losses
    return state.finished or best or state.step % train.checkpoint_every == 0
