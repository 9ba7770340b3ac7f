"""Training: the loop, the DeepSpeed engine, checkpoints, guards, and the run folder."""
