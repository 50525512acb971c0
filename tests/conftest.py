"""Eight simulated devices for every test, and a compilation cache that outlives the run."""

import os
import pathlib
import signal
import stat
import tempfile

os.environ['JAX_PLATFORMS'] = 'cpu'
# Barely optimised code compiles in half the time, and tests compute little.
os.environ['XLA_FLAGS'] = (
    '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0'
)
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    cache = pathlib.Path(tempfile.gettempdir()) / f'chromagan_jax_tests_{os.getuid()}'
    cache.mkdir(mode=0o700, exist_ok=True)
    found = cache.lstat()
    # Subprocesses load pickles from it: nobody else may write there.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f'{cache} must be a folder of this user, with mode 0700: remove it')
    os.environ['JAX_COMPILATION_CACHE_DIR'] = str(cache)

import numpy as np
import pytest
from absl import flags

from chromagan_jax.models.pretrained import squeezenet
from chromagan_jax.training import loop
from configs import base

# Ignored where the tests run in the background, and Ctrl-C is among what they try.
signal.signal(signal.SIGINT, signal.default_int_handler)


# What a machine may lack; NO_SKIPS=1 lets no other reason to skip a test pass.
MAY_BE_MISSING = (
    *('there is no node', 'there is no chromium', 'has no onnxruntime-web'),
    *('user namespaces are needed', 'a C compiler is needed', 'no /dev/full', 'only glibc'),
    'a network address is needed',
)


def skipped(config):
    """The reasons of skipped tests and files that NO_SKIPS=1 does not let pass."""
    if os.environ.get('NO_SKIPS') != '1' or not (
        reporter := config.pluginmanager.get_plugin('terminalreporter')
    ):
        return []
    reports = reporter.stats.get('skipped', [])
    found = [f'{report.nodeid}: {report.longrepr[2]}' for report in reports]
    return [line for line in found if not any(reason in line for reason in MAY_BE_MISSING)]


def pytest_sessionfinish(session):
    if skipped(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    for line in skipped(config):
        terminalreporter.write_line(f'skipped in spite of NO_SKIPS=1: {line}', red=True)


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
