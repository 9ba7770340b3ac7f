"""`climax-hpc inspect`: what a packed data set holds, as a table and as maps and time series."""
