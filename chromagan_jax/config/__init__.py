"""The config of a run: fields, config files, the command line, and rules for resuming."""

from chromagan_jax.config.fields import flatten, from_dict, set_field, to_dict
from chromagan_jax.config.files import load
from chromagan_jax.config.postprocess import PostProcess
from chromagan_jax.config.resume import check_resume, check_same_networks
from chromagan_jax.config.schema import SCHEMA_VERSION, Config, validate

__all__ = [
    'SCHEMA_VERSION',
    'Config',
    'PostProcess',
    'check_resume',
    'check_same_networks',
    'flatten',
    'from_dict',
    'load',
    'set_field',
    'to_dict',
    'validate',
]
