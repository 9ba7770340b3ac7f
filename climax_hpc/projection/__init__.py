"""Climate projection beside its network: years of packed scenarios, units, baselines, scores, evaluation, files."""
