"""A run: how it begins, the training loop, what its steps report."""
