"""A training run: setup, training loop, periodic actions and logging."""
