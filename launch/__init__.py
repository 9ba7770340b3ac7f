"""Job submission: runs, sweeps and whole pipelines on Slurm or on this machine, and what became of them."""
