"""Helpers that know nothing of climate or models: files, formatting, progress, provenance."""
