"""One self-contained HTML page per evaluation."""
