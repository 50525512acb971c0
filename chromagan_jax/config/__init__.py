"""Configs: whether one is possible, and whether a run may go on under it."""

from chromagan_jax.config.resume import check_resume, check_same_networks, flatten
from chromagan_jax.config.schema import validate

__all__ = ['check_resume', 'check_same_networks', 'flatten', 'validate']
