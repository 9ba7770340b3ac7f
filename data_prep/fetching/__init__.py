"""Search in the indices of ESGF and download: `climax-hpc fetch`."""
