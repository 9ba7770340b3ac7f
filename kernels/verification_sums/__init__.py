"""Sums of evaluation scores in one pass: errors and products for ACC."""
