"""Helpers without any knowledge of climate data or models: files, formatting, progress, provenance."""
