"""Trained weights in the package, one folder each; `climax_hpc/checkpoint/packaged.py` reads them."""
