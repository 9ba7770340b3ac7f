"""Progress of a training run: a bar or plain lines on the terminal, metrics and status in the run folder."""

import sys
import time
from contextlib import suppress
from typing import Any

import torch
from tqdm import tqdm

from climax_hpc.config.training import DataConfig, TrainConfig
from climax_hpc.training.run_folder import RunFolder
from climax_hpc.training.run_status import FILE_NAME, RunStatus
from climax_hpc.training.start_up import StartUp
from climax_hpc.training.step_meter import StepMeter
from climax_hpc.training.telemetry import Telemetry

_SECONDS_BETWEEN_LINES = 20.0


class TrainingProgress:
    """Collects the losses of steps and logs their mean every `log_every` steps; idle on ranks without a run folder."""

    def __init__(
        self,
        run: RunFolder | None,
        train: TrainConfig,
        data: DataConfig,
        *,
        task: str,
        loss: str,
        start_up: StartUp,
    ) -> None:
        """`loss`: what the loss is, printed at the start; `start_up`: recorded then."""
        self._run, self._train, self._task, self._loss = run, train, task, loss
        self._samples_per_step = data.micro_batch_size * data.micro_batches_per_step
        self._start_up = start_up
        self._losses: list[float] = []
        self._status: RunStatus | None = None
        self._begun = False
        self._printed_at = 0.0
        self._bar: Any = None

    def starting(self, step: int) -> None:
        """Say that a run which ended after `step` steps was started again: its engine may take minutes to build.

        A new run writes nothing before its first batch is read.
        """
        self._done = step
        if self._run and (self._run.path / FILE_NAME).is_file():
            self._status = RunStatus(self._run.path, step=step, steps=self._train.steps, state="starting")

    def begin(self, step: int) -> None:
        """Start or resume after `step` steps; called again after a rollback."""
        self._losses, self._done = [], step
        self._logged_step, self._logged_at = step, time.perf_counter()
        if not self._run:
            return
        if self._begun:
            self._run.go_back(step)
        else:
            self._begun = True
            self._run.start(step)
            self._start_up.passed("engine")
            self._start_up.write(self._run.path, step)
            self._status = self._status or RunStatus(self._run.path, step=step, steps=self._train.steps)
            self._status.begin(step=step)
            print(f"{self._task}: {self._loss}", flush=True)
            if step:
                print(f"{self._task}: resuming after step {step} of {self._train.steps}", flush=True)
        if sys.stderr.isatty():
            self._bar = self._bar or tqdm(total=self._train.steps, desc=self._task, unit="step", dynamic_ncols=True)
            self._bar.n = self._bar.initial = step

    def is_logged(self, step: int) -> bool:
        """True if metrics are logged after `step` steps."""
        return step % self._train.log_every == 0 or step == self._train.steps

    def step(self, step: int, loss: float, rate: float, meter: StepMeter) -> None:
        """Record that `step` steps are done; at logged steps all ranks call this together."""
        self._done = step
        meter.end_step()
        self._losses.append(loss)
        if self._bar is not None:
            self._bar.update()
        if not self.is_logged(step):
            return
        telemetry, straggler = meter.read()
        if self._run and self._status:
            self._log(self._run, self._status, step, rate, telemetry)
            if straggler:
                self.event(step, straggler, event="straggler", rank=telemetry.slowest_rank)
        self._losses = []

    def _log(self, run: RunFolder, status: RunStatus, step: int, rate: float, telemetry: Telemetry) -> None:
        now = time.perf_counter()
        mean = torch.tensor(self._losses).mean().item()
        steps_per_second = (step - self._logged_step) / (now - self._logged_at)
        throughput = steps_per_second * self._samples_per_step
        seconds_left = (self._train.steps - step) / steps_per_second
        values = {"loss": mean, "learning_rate": rate, "samples_per_second": throughput}
        run.log(step, values | telemetry.to_dict())
        status.running(step=step, loss=mean, samples_per_s=throughput, eta_s=seconds_left, telemetry=telemetry)
        self._show(step, mean, throughput, seconds_left, now)
        self._logged_step, self._logged_at = step, now

    def _show(self, step: int, loss: float, throughput: float, seconds_left: float, now: float) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.4f}, {throughput:.0f} samples/s")
        elif now - self._printed_at > _SECONDS_BETWEEN_LINES or step == self._train.steps:
            self._printed_at = now
            print(
                f"{self._task}: step {step}/{self._train.steps}, loss {loss:.4f}, {throughput:.0f} samples/s, "
                f"{seconds_left:.0f} s left",
                flush=True,
            )

    def validation(self, step: int, loss: float) -> None:
        """Log a validation loss."""
        if self._run:
            self._run.log(step, {"validation_loss": loss})

    def event(self, step: int, text: str, **values: Any) -> None:
        """Log and print an event, such as a loss spike."""
        if self._run:
            self._run.log(step, values)
            print(f"{self._task}: {text}", flush=True)

    def end(self, state: str, message: str = "") -> None:
        """Close bar and logs, and write the final status; prints the message of a stopped run."""
        if self._bar is not None:
            self._bar.close()
        if not self._run or not self._status:
            return
        self._run.close()
        if message and state != "failed":
            print(f"{self._task}: {message}", flush=True)
        with suppress(OSError):  # a full disk was reported before; it must not hide why the run ends
            self._status.end(state, step=self._done, message=message)
