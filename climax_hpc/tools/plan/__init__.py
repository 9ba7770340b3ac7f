"""`climax-hpc plan`: estimates memory, arithmetic, communication and time of a training run before queueing it."""
