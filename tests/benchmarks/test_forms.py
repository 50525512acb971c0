"""The choices of formulations that the GPU script measures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import forms
from chromagan_jax.models.ops import backend

ROOT = Path(__file__).parents[2]


def run(*command):
    return subprocess.run(
        command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False
    )


def test_each_choice_is_named_by_what_differs_and_every_field_is_changed():
    assert forms.label(backend.Forms()) == 'defaults'
    assert forms.label(backend.Forms(stride='strides')) == 'stride=strides'
    changed = [
        name
        for choice in forms.CHOICES[1:]
        for name, value, own in zip(choice._fields, choice, backend.Forms(), strict=True)
        if value != own
    ]
    assert set(changed) == set(backend.Forms._fields)
    assert len(changed) == len(forms.CHOICES) - 1  # one at a time


@pytest.mark.slow
def test_a_line_is_measured_and_those_after_the_limit_are_named():
    config = ['--config=configs/base.py:tiny', '--config.data.size=16']
    config += ['--config.generator.depth=2', '--config.discriminator.layers=1']
    flags = ['--batches=8', '--limit=1', '--rounds=1', '--steps=1', '--warm_up=1']
    done = run(sys.executable, '-m', 'benchmarks.forms', *config, *flags)
    (line,) = map(json.loads, done.stdout.splitlines())
    assert (line['name'], line['batch_size']) == ('train_step, defaults', 8)
    assert line['images_per_second'] == pytest.approx(8 / line['seconds'])
    assert line['memory_bytes'] > 4000
    left = [text.partition(', ')[2] for text in done.stderr.splitlines() if 'no time' in text]
    assert left == [
        'train_step, kernel_gradient=plain',
        'train_step, kernel_gradient=exchanged',
        'train_step, stride=strides',
        'train_step, defaults, remat',
    ]


def test_the_script_for_a_gpu_measures_both_batch_sizes_in_one_command():
    done = run('bash', 'benchmarks/gpu.sh', '--dry-run')
    assert done.returncode == 0, done.stderr
    (command,) = [line for line in done.stdout.splitlines() if 'benchmarks.forms' in line]
    assert '--config.dtype=bfloat16' in command
    assert r'--batches=64\,16' in command
