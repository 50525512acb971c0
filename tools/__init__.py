"""Releases and comparisons: run `python -m tools.NAME` from the root of the repository."""
