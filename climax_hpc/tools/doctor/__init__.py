"""`climax-hpc doctor`: checks whether this machine can run climax_hpc, and suggests fixes."""
