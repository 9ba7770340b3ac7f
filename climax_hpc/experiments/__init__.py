"""Whole experiments that run the other commands: the demo and the study."""
