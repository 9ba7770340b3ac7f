"""Packed shards to batches: sample order, shard reading, batch assembly."""
