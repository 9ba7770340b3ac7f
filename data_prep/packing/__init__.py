"""From raw files to shards: work units, regridding, statistics, climatology."""
