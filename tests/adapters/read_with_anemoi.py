"""Reads a store with anemoi-datasets: `python read_with_anemoi.py STORE OUT.npz`; runs with that package installed."""

import sys

import numpy as np
from anemoi.datasets import open_dataset

ds = open_dataset(sys.argv[1])
kept = [t for t in range(len(ds)) if t not in ds.missing]
np.savez(
    sys.argv[2],
    values=np.stack([ds[t] for t in kept]),
    dates=ds.dates[kept].astype("M8[s]").astype(np.int64),
    missing=sorted(ds.missing),
    variables=ds.variables,
    latitudes=ds.latitudes,
    longitudes=ds.longitudes,
    field_shape=ds.field_shape,
    mean=ds.statistics["mean"],
)
