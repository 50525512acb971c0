"""Exported networks beside the network in JAX, and the network beside its PyTorch twin."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
# A small network, and in place of the program that colorize compiles a function without colours.
STAND_IN = """
import json, sys
import numpy as np
from absl import flags
from flax import linen as nn
from chromagan_jax.gan import model
from chromagan_jax.inference import network

shapes = []


class Small(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(2)(x)


model.make_generator = lambda config: Small()


def program(generator, variables, image, noise):
    shapes.append(image.shape)
    return lambda given, seeds: np.zeros((*given.shape[:3], 2), np.float32)


network._program = program
"""


def run(*command):
    command = [sys.executable, *command]
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def photos(tmp_path):
    """A folder with one photograph."""
    folder = tmp_path / 'some photographs'
    folder.mkdir()
    Image.new('RGB', (50, 40), 'navy').save(folder / 'a.png')
    return folder


@pytest.mark.parametrize(
    ('module', 'flags', 'expected'),
    [
        ('export', ['--photos={}', '--size=64x32', '--repeats=1'], [[1, 32, 64, 1]]),
        ('inference', ['--size=32', '--batch=2', '--runs=1'], [[2, 32, 32, 1]]),
    ],
)
def test_jax_runs_the_program_that_colorize_compiles(module, flags, expected, photos):
    argv = [flag.format(photos) for flag in flags]
    call = f'from benchmarks import {module}\nflags.FLAGS(["", *sys.argv[1:]])\n{module}.main([])\n'
    done = run('-c', f'{STAND_IN}{call}print(json.dumps(shapes))', *argv)
    assert done.returncode == 0, done.stderr
    line, shapes = map(json.loads, done.stdout.splitlines())
    assert shapes == expected
    assert line.get('ms') or line.get('images_per_second')


@pytest.mark.parametrize(
    ('flags', 'sentence'),
    [
        (['--photos={}', '--size=256'], "--size must be WIDTHxHEIGHT in px, as 256x256, not '256'"),
        (['--photos={}', '--workdir=nowhere'], 'nowhere is not a workdir of a run'),
        (['--photos={}/none'], '/none holds no photographs'),
    ],
)
def test_a_mistake_is_one_sentence(flags, sentence, photos):
    done = run('-m', 'benchmarks.export', *(flag.format(photos) for flag in flags))
    assert (done.returncode, done.stderr.count('\n')) == (1, 1), done.stderr
    assert sentence in done.stderr


def test_a_file_that_is_no_network_is_one_sentence(photos):
    pytest.importorskip('onnxruntime')
    done = run('-m', 'benchmarks.export', f'--photos={photos}', f'--model={photos}/a.png')
    assert (done.returncode, done.stderr.count('\n')) == (1, 1), done.stderr
    assert 'a.png is no exported network' in done.stderr
