"""Whole experiments made of the other verbs: the demo and the study."""
