"""Readers of raw data: CMIP6, ERA5, ClimateBench, climate4R."""
