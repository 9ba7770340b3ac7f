"""Evaluation: forecasts side by side with baselines on a held-out period; scores, intervals, evaluation.json."""
