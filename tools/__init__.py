"""What makes releases and tables: `python -m tools.NAME` from the root of the repository."""
