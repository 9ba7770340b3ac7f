"""Climate projection: years of forcings -> the climate of the last one (ClimaX, §4.3): training, baselines, scores."""
