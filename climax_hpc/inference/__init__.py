"""Inference: states from shards, NetCDF, zarr or xarray -> forecasts as CF-compliant NetCDF, zarr or xarray."""
