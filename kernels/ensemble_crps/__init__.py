"""Latitude-weighted, masked CRPS of an ensemble on the head output."""
