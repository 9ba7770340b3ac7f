"""Named YAML configurations, one per command and use: `climax-hpc COMMAND --config NAME`."""
