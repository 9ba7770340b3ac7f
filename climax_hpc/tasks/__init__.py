"""Downstream tasks of the paper: forecasting, climate projection, downscaling; `registry` tells who serves which."""
