"""What measures speed: `python -m benchmarks.NAME` from the root of the repository."""
