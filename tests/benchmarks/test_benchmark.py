import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from benchmarks.compare import SETTINGS

ROOT = pathlib.Path(__file__).parents[2]


def measure(*flags):
    command = [sys.executable, '-m', 'benchmarks.benchmark', '--rounds=2', '--steps=4']
    command += ['--config=configs/base.py:tiny', '--config.generator.depth=2']
    command += ['--config.discriminator.layers=1', '--config.data.size=16']
    return subprocess.run(
        [*command, *flags],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope='module')
def done():
    done = measure()
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def lines(done):
    return {line['name']: line for line in map(json.loads, done.stdout.splitlines())}


@pytest.mark.slow
def test_every_part_is_measured_and_says_on_what(done, lines):
    parts = ['matmul', 'compile', 'state', 'train_step', 'pipeline', 'loop', 'colorize']
    assert list(lines) == parts
    for name, line in lines.items():
        assert (line['size'], line['batch_size'], line['devices']) == (16, 8, 8)
        assert (line['generator'], line['discriminator']) == ('UNet', 'PatchGAN')
        assert line['device'] == 'cpu'
        assert line['machine']
        assert line['cores'] == os.cpu_count()
        assert line['versions']['jax'] == jax.__version__
        settings = {*SETTINGS, 'devices', 'device', 'machine', 'cores', 'versions'}
        for key in line.keys() - settings:
            assert line[key] >= 0, key
            assert f'{name:12} {key:28} ' in done.stderr  # the table


@pytest.mark.slow
def test_a_compilation_comes_back_from_the_cache_sooner(lines):
    assert 0 < lines['compile']['cached_seconds'] < lines['compile']['cold_seconds'] / 2


@pytest.mark.slow
def test_the_figures_of_a_step_hang_together(lines):
    step = lines['train_step']
    assert step['images_per_second'] == pytest.approx(8 / step['seconds'])
    assert step['flop_per_second'] == pytest.approx(step['flop'] / step['seconds'])
    peak = lines['matmul']['flop_per_second']
    assert step['of_matmul'] == pytest.approx(step['flop_per_second'] / peak)
    assert step['memory_bytes'] > 4 * 1000  # more than its parameters take


@pytest.mark.slow
def test_the_stages_of_the_pipeline_add_up(lines):
    pipeline = lines['pipeline']
    stages = ('read', 'decode', 'resize', 'encode', 'batch')
    seconds = sum(1 / pipeline[f'{stage}_per_second'] for stage in stages)
    assert pipeline['one_thread_per_second'] == pytest.approx(1 / seconds)
    assert 0 < pipeline['one_thread_of_decode'] < 1


@pytest.mark.slow
def test_the_loop_is_held_against_the_step(lines):
    assert 0 < lines['loop']['of_step'] < 10
    assert 0 <= lines['loop']['waiting_for_data'] < 1


@pytest.mark.slow
def test_a_part_can_be_measured_alone():
    done = measure('--only=pipeline')
    (line,) = map(json.loads, done.stdout.splitlines())
    assert line['name'] == 'pipeline'
    assert line['one_thread_per_second'] > 0


def test_an_unknown_part_is_a_mistake():
    done = measure('--only=speed')
    assert done.returncode == 1
    assert done.stderr.count('\n') == 1
    assert '--only takes comma-separated names of parts: matmul, compile,' in done.stderr
