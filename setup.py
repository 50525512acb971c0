"""Puts the config files into the package; everything else is in setup.cfg."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=['chromagan_jax*']), 'chromagan_jax.configs'],
    package_dir={'chromagan_jax.configs': 'configs'},
)
