"""Downscaling: coarse fields -> fine ones of the same time (ClimaX, §4.4): training, baselines, scores, files."""
