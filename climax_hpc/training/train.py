"""The training loop: batch -> forward -> loss -> backward -> guard -> step -> log -> checkpoint -> stop if asked to."""

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from climax_hpc.checkpoint.format import Checkpoint
from climax_hpc.config.training import PretrainConfig
from climax_hpc.distributed import process_group
from climax_hpc.distributed.hang_detection import longest_wait
from climax_hpc.distributed.signals import Stopped
from climax_hpc.kernels.dispatch import forced_form
from climax_hpc.training.checkpoint_writer import CheckpointWriter
from climax_hpc.training.deepspeed_engine import set_learning_rate, torch_functions_restored
from climax_hpc.training.determinism import deterministic_algorithms
from climax_hpc.training.optimizer import cooldown, learning_rate
from climax_hpc.training.resume import ResumePoint, restore
from climax_hpc.training.rollback import roll_back
from climax_hpc.training.setup import TrainingSetup, prepare_training
from climax_hpc.training.start_up import StartUp
from climax_hpc.training.state import TrainingState
from climax_hpc.training.step_guard import is_spike
from climax_hpc.training.supervision import RunMonitor, memory_advice, supervise
from climax_hpc.training.task import TrainingTask


def pretrain(config: PretrainConfig) -> None:
    """Pretrain from random weights, or resume an interrupted run."""
    train(config, start=None)


def train(config: PretrainConfig, start: Checkpoint | None, task: TrainingTask | None = None) -> None:
    """Train for `config.train.steps` optimiser steps, from random weights or from `start`; the default task: forecast.

    Raises:
        UserError: bad input, or training that diverges; the message says where, and how to fix it.
        Stopped: after a stop signal and a checkpoint (exit status 75).
        RankLost: another rank is gone (exit status 76).
    """
    start_up = StartUp()
    start_up.passed("imports")
    forced_form()  # refuses an invalid CLIMAX_HPC_KERNELS
    with deterministic_algorithms(config.train.deterministic):  # before the GPU is used
        process_group.connect(longest_wait=longest_wait(config.train.hang_timeout))
        start_up.passed("ranks")
        with process_group.locked_by_first(Path(config.run_folder), "run_folder"):
            setup = prepare_training(config, start, task or TrainingTask(config, start), start_up)
            start_up.passed("data")
            if setup:  # None: this run has finished before
                run_to_end(setup)


def run_to_end(setup: TrainingSetup) -> None:
    """Train under supervision, from one resume point to the next."""
    config = setup.config
    supervised = supervise(
        setup.world,
        setup.run_folder,
        setup.progress,
        hang_timeout=config.train.hang_timeout,
        memory_advice=memory_advice(config.data, setup.task.model),
        part_written=lambda: setup.writer.part_written,
    )
    with torch_functions_restored(), supervised as monitor, setup.writer:
        resume_point: ResumePoint | None = setup.resume_point
        process_group.on_all(lambda: setup.progress.starting(setup.resume_point.state.step))
        while resume_point:
            resume_point = train_from(resume_point, setup, monitor)
            gc.collect()  # an engine is full of reference cycles, and the next one needs its memory


def train_from(resume_point: ResumePoint, setup: TrainingSetup, monitor: RunMonitor) -> ResumePoint | None:
    """Train from a resume point to the end, or up to a loss spike: then returns the checkpoint to roll back to."""
    config, progress, state = setup.config, setup.progress, resume_point.state
    engine, ema = setup.build_engine(resume_point)
    restore(resume_point, engine=engine, ema=ema)
    guard, meter = setup.step_guard(engine), setup.step_meter(engine)
    sampler, stream = setup.batches(state, meter.waited)
    process_group.on_all(lambda: progress.begin(state.step))

    for step, micro_batch, batch in meter.timed(stream):
        monitor.heartbeat.at(f"step {step}{beside(setup.writer)}")
        setup.writer.wait_if_late()
        rate = learning_rate(step, config.train.steps, config.optimizer)
        set_learning_rate(engine, rate)
        meter.begin_pass(step, micro_batch)
        torch.manual_seed(micro_batch.key)  # dropout depends on the micro-batch, not on the rank that computes it
        loss = setup.task.loss(engine, batch, setup.data.weight_H)
        engine.backward(loss)
        guard.add(micro_batch, loss)
        stop = monitor.signals.received is not None or setup.writer.failed
        status = guard.check(step, stop=stop) if guard.complete else None
        engine.step()  # updates the weights after the last micro-batch of the step
        meter.end_pass()
        monitor.heartbeat.at(f"reading data after step {step}")
        if status is None:
            continue
        if ema:
            ema.update(engine, step)
        if is_spike(status.loss, state.recent_losses, config.train.spike_factor):
            rollback_point = roll_back(setup, state, sampler.batch_of(step), status.loss)
            if rollback_point:
                return rollback_point
        state = state.after_step(status.loss, cooldown=cooldown(step + 1, config.train.steps, config.optimizer))
        progress.step(state.step, status.loss, rate, meter)
        state = validate_if_due(setup, state, engine, monitor)
        if checkpoint_is_due(setup, state) or status.stop:
            monitor.heartbeat.at(f"writing the checkpoint of step {state.step}")
            setup.save(engine, ema, state)
        if state.finished or status.stop:
            setup.writer.wait()
        if state.finished:
            progress.end("finished")
            break
        if status.stop:
            progress.end("stopped", monitor.stop_message(state.step))
            raise Stopped
    return None


def validate_if_due(setup: TrainingSetup, state: TrainingState, engine: Any, monitor: RunMonitor) -> TrainingState:
    """Compute the validation loss every `train.validate_every` steps; decide whether the run has finished."""
    train = setup.config.train
    last = state.step == train.steps
    if setup.validation and (last or state.step % train.validate_every == 0):
        monitor.heartbeat.at(f"validation after step {state.step}")
        loss = setup.validation.loss(engine, setup.replica)
        setup.progress.validation(state.step, loss)
        state = state.after_validation(loss, keep=train.keep_best)
    out_of_patience = train.patience > 0 and state.stale_validations >= train.patience
    return replace(state, finished=last or out_of_patience, ranks=setup.world.size)


def beside(writer: CheckpointWriter) -> str:
    """What else is going on in a step, for the heartbeat."""
    return f", while {writer.writing} is written" if writer.writing else ""


def checkpoint_is_due(setup: TrainingSetup, state: TrainingState) -> bool:
    """True every `train.checkpoint_every` steps, at the end, and where the validation loss is among the best."""
    train = setup.config.train
    best = train.keep_best > 0 and state.validation_loss is not None and state.validation_loss in state.best_losses
    return state.finished or best or state.step % train.checkpoint_every == 0
