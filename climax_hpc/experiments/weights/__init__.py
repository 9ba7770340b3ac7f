"""`make pretrained`: trains the weights that are part of the package, scores them and writes their model card."""
