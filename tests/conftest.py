"""Eight simulated devices for every test, and a compilation cache that outlives the run."""

import os
import pathlib
import signal
import tempfile

os.environ['JAX_PLATFORMS'] = 'cpu'
# Code of few optimisations compiles in a third of the time, and tests compute little.
os.environ['XLA_FLAGS'] = (
    '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0'
    ' --xla_cpu_use_fusion_emitters=false'
)
os.environ.setdefault(
    'JAX_COMPILATION_CACHE_DIR', str(pathlib.Path(tempfile.gettempdir()) / 'chromagan_jax_tests')
)

import numpy as np
import pytest
from absl import flags

from chromagan_jax.models.pretrained import squeezenet
from chromagan_jax.training import loop
from configs import base

# Ignored where the tests run in the background, and Ctrl-C is among what they try.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope='session', autouse=True)
def _parsed_flags():
    flags.FLAGS.mark_as_parsed()  # Grain's worker processes read absl flags


@pytest.fixture
def tiny():
    """The base config with networks for tests."""
    return base.get_config('tiny')


@pytest.fixture
def small():
    """The same with as few layers as there can be."""
    return small_config()


def small_config():
    config = base.get_config('tiny')
    config.generator = config.generator.clone(depth=2)
    config.discriminator = config.discriminator.clone(layers=1)
    config.data.size = 16
    return config


@pytest.fixture(scope='session')
def trained(tmp_path_factory):
    """The workdir of a finished run of `small`, to be read, or copied and changed."""
    workdir = tmp_path_factory.mktemp('trained') / 'run'
    loop.train_and_evaluate(small_config(), workdir)
    return workdir


@pytest.fixture(scope='session')
def features(tmp_path_factory):
    """A file of random weights of SqueezeNet's, for eval.features."""
    draw = np.random.default_rng(5).standard_normal
    state = {}
    for key, (*window, inputs, outputs) in squeezenet._layers().values():
        spread = np.sqrt(2 / (inputs * np.prod(window)))
        state[f'{key}.weight'] = (spread * draw((outputs, inputs, *window))).astype(np.float32)
        state[f'{key}.bias'] = np.zeros(outputs, np.float32)
    path = tmp_path_factory.mktemp('weights') / 'squeezenet1_1.npz'
    np.savez(path, **state)
    return str(path)
