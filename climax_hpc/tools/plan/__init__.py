"""`climax-hpc plan`: memory, arithmetic, communication and time of a training run before the queue tells them."""
