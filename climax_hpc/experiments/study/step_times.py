"""Measured seconds per optimiser step of the compared networks, from what their runs logged."""

import json
from pathlib import Path

import numpy as np

from climax_hpc.experiments.study.commands import Study
from climax_hpc.experiments.study.networks import BATCH
from climax_hpc.experiments.study.rates import pretrained
from climax_hpc.experiments.study.runner import Step, StepRecords
from climax_hpc.experiments.study.text import table
from climax_hpc.experiments.study.trainings import finetune


def section(study: Study) -> str:
    """A table of the networks whose runs are finished; empty if there is none."""
    records, rows = StepRecords(study.folder), []
    for network in study.size.networks:
        runs = [finetune(study, seed, network, start=None) for seed in study.size.seeds]
        if network.pretrains:
            runs.append(pretrained(study, network))
        times = [seconds_per_step(step) for step in runs if records.is_finished(step) and _log(step).exists()]
        if times:
            rows.append([network.label, f"{np.median(times):.3f}", f"{min(times):.3f} to {max(times):.3f}"])
    if not rows:
        return ""
    return (
        f"Seconds per training step of {BATCH} samples, median of each run; two steps of the study at a time shared "
        "the machine:\n\n" + table(["network", "median of its runs", "lowest and highest"], rows)
    )


def seconds_per_step(step: Step) -> float:
    """Median over the log entries of a training run [s]."""
    entries = map(json.loads, _log(step).read_text(encoding="utf-8").splitlines())
    return float(np.median([BATCH / entry["samples_per_second"] for entry in entries if "samples_per_second" in entry]))


def _log(step: Step) -> Path:
    return step.output / "metrics.jsonl"
