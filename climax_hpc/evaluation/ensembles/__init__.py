"""Ensembles that are scored: what they have in common, and those that networks with noise are compared with."""
