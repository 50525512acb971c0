"""Speed measurements: run `python -m benchmarks.NAME` from the root of the repository."""
