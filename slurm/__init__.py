"""Batch scripts and site files, installed as package data; `python -m climax_hpc.launch where` prints the folder."""
