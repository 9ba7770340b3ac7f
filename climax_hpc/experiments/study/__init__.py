"""`make study`: does ClimaX pretraining help, and compared with what? One file per question; see docs/results."""
