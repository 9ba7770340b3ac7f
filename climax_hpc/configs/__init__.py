"""Named YAML configurations, one per verb and use: `climax-hpc VERB --config NAME`."""
