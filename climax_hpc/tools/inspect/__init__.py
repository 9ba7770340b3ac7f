"""`climax-hpc inspect`: the contents of a packed data set as a table, maps and time series."""
