"""Variable tokenisation and variable aggregation as one operation."""
