"""Downstream tasks of the paper; so far global forecasting."""
