"""Batch scripts and site files, shipped as data: `python -m climax_hpc.launch where` prints this folder."""
