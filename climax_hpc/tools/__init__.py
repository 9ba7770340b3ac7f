"""Commands around the main path: inspect, plan, doctor, bench, convert."""
