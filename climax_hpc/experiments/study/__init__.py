"""`make study`: does ClimaX pretraining pay, and against what; one file per question (docs/results/method.md)."""
