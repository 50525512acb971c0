"""Conditional GANs that colorize grayscale photographs, in JAX."""

__version__ = '0.1.0'
