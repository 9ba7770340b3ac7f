"""Tools: inspect, plan, doctor, bench, convert."""
