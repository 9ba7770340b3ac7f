"""Climate projection: forcings of years -> the last one's climate (ClimaX, §4.3): training, baselines, scores, files."""
