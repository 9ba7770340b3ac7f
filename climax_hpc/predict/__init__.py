"""Inference: states from shards, NetCDF, zarr or xarray -> forecasts in physical units -> CF-compliant NetCDF or zarr."""
