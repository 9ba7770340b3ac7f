"""Checkpoints: format, metadata, reading, transfer to other models."""
