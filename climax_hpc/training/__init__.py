"""Training: the loop, the DeepSpeed engine, checkpoints, guards, and what a run folder holds."""
