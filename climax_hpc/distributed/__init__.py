"""Processes: ranks, process group, stop signals, heartbeat."""
