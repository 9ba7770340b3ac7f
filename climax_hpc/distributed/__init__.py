"""Processes: ranks, process groups, stop signals, heartbeats."""
