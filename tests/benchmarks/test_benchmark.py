import json
import os
import pathlib
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from benchmarks import benchmark
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
def test_only_the_second_compilation_comes_from_the_cache(small, monkeypatch):
    """Counted: a clock depends on what else the machine does."""
    rounds, compiled = [], benchmark.steps.compiled

    def count(event, **_):
        rounds[-1][event.rpartition('/')[2]] += 1

    def compile_again(config):
        rounds.append(Counter())
        return compiled(config)

    monkeypatch.setattr(benchmark.steps, 'compiled', compile_again)
    jax.monitoring.register_event_listener(count)
    try:
        line = benchmark.compile_times(small)
    finally:
        jax.monitoring.unregister_event_listener(count)
    cold, cached = rounds
    assert cold['cache_misses'] > 0 == cold['cache_hits']
    assert cached['cache_hits'] > 0 == cached['cache_misses']
    assert min(line['cold_seconds'], line['cached_seconds']) > 0


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


def test_the_lines_say_which_networks_and_which_photographs(small, monkeypatch, capsys):
    parts = {name: lambda config: {'images_per_second': 1.0} for name in ('matmul', 'pipeline')}
    monkeypatch.setattr(benchmark, 'PARTS', parts)
    monkeypatch.setattr(benchmark.sharding, 'disable_async_cpu_dispatch', lambda: None)
    small.generator = small.generator.clone(width=7)
    small.data.source = 'somewhere'
    benchmark.main(small)
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first['width'] == second['width'] == 7
    assert first['discriminator_width'] == small.discriminator.width
    assert 'source' not in first
    assert second['source'] == 'somewhere'


def test_the_loop_runs_no_steps_that_do_less(small, monkeypatch):
    def train(config, workdir):
        assert (config.pretrain_steps, config.discriminator_warmup_steps) == (0, 0)
        lines = [{'step': n, 'images_per_second': 8.0, 'waiting_for_data': 0.25} for n in (4, 6)]
        text = ''.join(f'{json.dumps(line)}\n' for line in lines)
        (workdir / 'metrics.jsonl').write_text(text)

    monkeypatch.setattr(benchmark.loop_lib, 'train_and_evaluate', train)
    small.pretrain_steps, small.discriminator_warmup_steps = 3, 5
    assert benchmark.loop_rate(small, 2) == (8.0, 0.25)
    assert small.pretrain_steps == 3


def test_the_latency_of_one_array_holds_no_compilation(small, monkeypatch):
    made = []

    def make_predict(generator, variables, sizes, batch_size):
        made.append(sizes)
        return lambda small, samples, points: np.zeros((len(small), *small[0].shape[:2], 2))

    monkeypatch.setattr(benchmark, 'make_predict', make_predict)
    monkeypatch.setattr(benchmark, 'make_model', lambda *_: SimpleNamespace(generator=None))
    monkeypatch.setattr(benchmark.state_lib, 'create_state', lambda *_: None)
    monkeypatch.setattr(benchmark.state_lib, 'generator_variables', lambda _: {})
    monkeypatch.setattr(benchmark.batch_lib, 'colorize_files', lambda *_, **__: None)
    assert benchmark.colorizing(small)['latency_seconds'] > 0
    assert made == [(16,)]
