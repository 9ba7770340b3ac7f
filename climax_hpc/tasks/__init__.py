"""Downstream tasks of the paper: forecasting, climate projection, downscaling; `registry` lists them."""
