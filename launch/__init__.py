"""Job submission (submitit, sbatch); filled by the cluster issue."""
