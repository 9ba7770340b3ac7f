"""Latitude-weighted, masked losses on the head output."""
