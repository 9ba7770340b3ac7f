"""One folder per fused operation: reference, op, README with the mathematics."""
