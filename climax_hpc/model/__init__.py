"""ClimaX: aggregator, blocks, head, output modes."""
