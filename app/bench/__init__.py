"""Benchmarks: `larimar bench`. Each function returns figures; docs/performance.md tells those of the recorded runs."""
