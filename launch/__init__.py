"""Job submission: runs, sweeps and pipelines on Slurm or on this machine, their status and their results."""

from climax_hpc.launch.config import Resources, StagesConfig, SweepConfig
from climax_hpc.launch.pipeline import pipeline
from climax_hpc.launch.single_run import finetune, pretrain
from climax_hpc.launch.status import read_status
from climax_hpc.launch.sweep import sweep

__all__ = ["Resources", "StagesConfig", "SweepConfig", "finetune", "pipeline", "pretrain", "read_status", "sweep"]
