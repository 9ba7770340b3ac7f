"""Everything a training run needs before its first step, checked before anything is written."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch

from climax_hpc.checkpoint.format import Checkpoint
from climax_hpc.checkpoint.metadata import CheckpointMetadata
from climax_hpc.config.sequence_parallel import check_rows
from climax_hpc.config.training import FinetuneConfig, PretrainConfig
from climax_hpc.data.batches import batches
from climax_hpc.data.sampler import MicroBatch, Sampler, check_division
from climax_hpc.distributed import process_group
from climax_hpc.distributed.hang_detection import longest_wait
from climax_hpc.distributed.launcher import World
from climax_hpc.distributed.replicas import Replica, check_groups, replica_of
from climax_hpc.fields.grid import check_same_cells
from climax_hpc.kernels.devices import device_named
from climax_hpc.model.band import share
from climax_hpc.training.checkpoint_writer import CheckpointWriter
from climax_hpc.training.compilation import compile_network
from climax_hpc.training.data_setup import TrainingData
from climax_hpc.training.deepspeed_engine import build_engine
from climax_hpc.training.ema import Ema
from climax_hpc.training.model_flop import ModelFlop
from climax_hpc.training.progress import TrainingProgress
from climax_hpc.training.resume import ResumePoint, check_length, find_resume_point, forget_resume_from
from climax_hpc.training.run_folder import RunFolder
from climax_hpc.training.save import save
from climax_hpc.training.start_up import StartUp
from climax_hpc.training.state import TrainingState
from climax_hpc.training.step_guard import StepGuard
from climax_hpc.training.step_meter import StepMeter
from climax_hpc.training.task import TrainingTask
from climax_hpc.training.validation import Validation
from climax_hpc.training.variable_weights import loss_in_words


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """One training run on this rank."""

    config: PretrainConfig
    task: TrainingTask
    start: Checkpoint | None
    world: World
    replica: Replica
    """The replica of the network that this rank computes for."""
    data: TrainingData
    validation: Validation | None
    progress: TrainingProgress
    resume_point: ResumePoint
    """Where the run starts or resumes."""
    writer: CheckpointWriter
    """Writes the checkpoints, in a thread if so configured."""

    @property
    def run_folder(self) -> Path:
        """Folder of this run."""
        return Path(self.config.run_folder)

    @property
    def checkpoints(self) -> Path:
        """Folder of its checkpoints."""
        return self.run_folder / "checkpoints"

    @property
    def micro_batches(self) -> int:
        """Micro-batches of this rank in one optimiser step."""
        return self.config.data.micro_batches_per_step // self.replica.count

    def newest(self) -> ResumePoint:
        """The newest checkpoint, verified; one that is being written is waited for."""
        self.writer.wait()
        return find_resume_point(self.checkpoints, resume_from=None, zero_stage=self.config.train.zero_stage)

    def build_engine(self, resume_point: ResumePoint) -> tuple[Any, Ema | None]:
        """DeepSpeed engine around a model with random or given weights, and their moving average if configured."""
        train = self.config.train
        torch.manual_seed(train.seed)
        model = self.task.build_network()
        if self.start:
            model.load_state_dict(self.start.weights)
        if self.replica.band:
            share(model, self.replica.band)
        if train.zero_stage < 3:  # at stage 3 the device may not hold all of it
            model.to(process_group.device())
        model.train()
        compile_network(model, train)
        engine = build_engine(
            model,
            train=train,
            optimizer=self.config.optimizer,
            micro_batch_size=self.config.data.micro_batch_size,
            micro_batches_per_rank=self.micro_batches,
            universal=resume_point.universal,
        )
        return engine, Ema(engine, train.ema_decay) if train.ema_decay else None

    def batches(
        self, state: TrainingState, waited: Callable[[float], None]
    ) -> tuple[Sampler, Iterator[tuple[int, MicroBatch, Any]]]:
        """The sampler without skipped batches, and this rank's (step, micro-batch, batch) after `state.step` steps.

        The first batch is read here, so that unreadable data are refused before anything is written.
        `waited`: called with the time that this rank waited for each batch [s].
        """
        sampler = self.data.sampler.without(state.skipped)
        stream = batches(
            sampler,
            self.data.builders,
            first_step=state.step,
            steps=self.config.train.steps,
            rank=self.replica.number,
            ranks=self.replica.count,
            read_threads=self.config.data.read_threads,
            prefetch_micro_batches=self.config.data.prefetch_micro_batches,
            waited=waited,
        )
        return sampler, chain(list(islice(stream, 1)), stream)

    def step_guard(self, engine: Any) -> StepGuard:
        """The checks before every optimiser step."""
        return StepGuard(
            engine,
            micro_batches=self.micro_batches,
            rank=self.world.rank,
            check_gradients=self.config.train.precision != "float16",  # its loss scaler expects infinite gradients
        )

    def step_meter(self, engine: Any) -> StepMeter:
        """What measures the steps of this rank."""
        device = device_named(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
        low = self.config.train.precision != "float32"
        return StepMeter(
            engine,
            flop=ModelFlop(
                self.task.model,
                self.data.builders,
                rollout_steps=self.config.data.rollout_steps,
                sequence=self.config.train.sequence_parallel,
                members=self.config.train.members,
            ),
            peak_flop_per_second=(device.bfloat16 if low else device.float32) if device else None,
            is_logged=self.progress.is_logged,
        )

    def save(self, engine: Any, ema: Ema | None, state: TrainingState) -> None:
        """Begin to write a checkpoint, which is complete after `writer.wait()`; all ranks call this together."""
        model = self.task.model
        if self.start:  # `init` says how the weights were first drawn, which the config of a fine-tuning cannot change
            model = replace(model, init=self.start.metadata.config.init)
        metadata = CheckpointMetadata(
            step=state.step,
            config=model,
            normalisation=self.data.normalisation,
            in_variables=self.data.in_variables,
            out_variables=self.data.out_variables,
            training=self.data.training_metadata,
        )
        train = self.config.train
        save(
            self.checkpoints,
            engine=engine,
            ema=ema,
            metadata=metadata,
            state=state,
            keep=train.keep_checkpoints,
            keep_best=train.keep_best,
            writer=self.writer,
        )


def prepare_training(
    config: PretrainConfig, start: Checkpoint | None, task: TrainingTask, start_up: StartUp
) -> TrainingSetup | None:
    """Join the process group and prepare a run; None if the run has finished before.

    Raises:
        UserError: bad input, or a number of ranks that does not divide data.micro_batches_per_step.
    """
    world = process_group.connect()
    replica = replica_of(world, config.train.sequence_parallel, longest_wait=longest_wait(config.train.hang_timeout))
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    data_sha256 = task.data_sha256
    path = Path(config.run_folder)
    transferred = start.transferred if start else None
    run = process_group.on_first(
        lambda: RunFolder(path, config, world=world, manifest_sha256=data_sha256, transferred=transferred)
    )
    if config.resume_from is None:
        process_group.on_first(lambda: forget_resume_from(path / "checkpoints"))
    resume_point = find_resume_point(
        path / "checkpoints", resume_from=config.resume_from, zero_stage=config.train.zero_stage
    )
    if resume_point.state.has_ended(config.train):
        if world.is_first:
            print(f"{path.name}: already finished after step {resume_point.state.step}; nothing to do", flush=True)
        return None
    check_length(resume_point, config.train.steps, config.optimizer)
    process_group.on_all(lambda: _check_sharing(config, task, world.size))
    task.band = replica.band
    data = task.prepare_data(start.metadata.normalisation if start else None)
    kept = data.kept
    _check_cells(start, data, config)
    if run:
        run.record(variable_weights=dict(data.variable_weights))
    setup = TrainingSetup(
        config=config,
        task=task,
        start=task.adapted(start),
        world=world,
        replica=replica,
        data=data,
        validation=task.prepare_validation(data),
        progress=TrainingProgress(
            run,
            config.train,
            config.data,
            task=path.name,
            loss=loss_in_words(
                config.model.output_mode,
                config.data.variable_weights,
                config.train.members if config.model.noise_dim else None,
            ),
            start_up=start_up,
        ),
        resume_point=resume_point,
        writer=CheckpointWriter(in_background=config.train.background_checkpoints, patience=config.train.hang_timeout),
    )
    if kept and not kept.is_stored:  # written before the engine is built, which may lack memory
        process_group.on_first(lambda: kept.write(path))
    return setup


def _check_sharing(config: PretrainConfig, task: TrainingTask, ranks: int) -> None:
    """Refuse a region, a number of micro-batches, or groups, that the ranks cannot share out evenly.

    Raises:
        UserError: names the numbers, and what to change.
    """
    size, data = config.train.sequence_parallel, config.data
    if size > 1:
        check_rows(task.model, size, "data.region" if data.region else "model.height")
    check_division(data.micro_batch_size, data.micro_batches_per_step, ranks, sequence=size)
    check_groups(ranks, config.train.zero_hpz, "train.zero_hpz")


def _check_cells(start: Checkpoint | None, data: TrainingData, config: PretrainConfig) -> None:
    """Refuse data on other cells than the checkpoint was trained on; `transfer` moves it to another grid.

    Raises:
        UserError: names both grids.
    """
    moved = start and (start.transferred or (isinstance(config, FinetuneConfig) and config.transfer))
    known = start.metadata.training if start and not moved and not config.data.region else None
    if start and known:
        fix = "pack the data on the grid of the checkpoint, or set transfer: true to move the model"
        check_same_cells(data.training_metadata.cells(), known.cells(), "data.dataset", f"checkpoint {start.path}", fix)
