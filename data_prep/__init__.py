"""Raw CMIP6 to packed HDF5 shards; knows the registry and the shard format, nothing of models."""
