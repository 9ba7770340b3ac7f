"""What a running training shows: a bar on a terminal, plain lines in a batch log, metrics in the run folder."""

import sys
import time

import torch
from tqdm import tqdm

from climax_hpc.config import DataConfig, TrainConfig
from climax_hpc.runfolder import RunFolder

_SECONDS_BETWEEN_LINES = 20.0


class Progress:
    """Collects step losses, logs their mean every `log_every` steps; does nothing on ranks without a run folder."""

    def __init__(
        self, run: RunFolder | None, train: TrainConfig, data: DataConfig, *, first_step: int, task: str
    ) -> None:
        self._run, self._train, self._task = run, train, task
        self._samples_per_step = data.group_size * data.groups_per_step
        self._losses: list[torch.Tensor] = []
        self._logged_step, self._logged_at = first_step, time.perf_counter()
        self._printed_at = 0.0
        self._bar = None
        if run:
            run.start(first_step)
            if first_step:
                print(f"{task}: going on after step {first_step} of {train.steps}", flush=True)
            if sys.stderr.isatty():
                self._bar = tqdm(total=train.steps, initial=first_step, desc=task, unit="step", dynamic_ncols=True)

    def step(self, step: int, loss: torch.Tensor, rate: float) -> None:
        """Take note that `step` steps are done."""
        if not self._run:
            return
        self._losses.append(loss)
        if self._bar is not None:
            self._bar.update()
        if step % self._train.log_every and step != self._train.steps:
            return
        now = time.perf_counter()
        mean = torch.stack(self._losses).mean().item()
        steps_per_second = (step - self._logged_step) / (now - self._logged_at)
        throughput = steps_per_second * self._samples_per_step
        self._run.log(step, {"loss": mean, "learning_rate": rate, "samples_per_second": throughput})
        self._show(step, mean, throughput, (self._train.steps - step) / steps_per_second, now)
        self._losses, self._logged_step, self._logged_at = [], step, now

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

    def close(self) -> None:
        """End the bar and close the logs."""
        if self._bar is not None:
            self._bar.close()
        if self._run:
            self._run.close()
