"""Stores of zarr, icechunk and virtual references, at URLs and paths: found, opened, read with retries."""
