"""Data made here: a general circulation model and a toy climate."""
