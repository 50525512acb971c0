import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent


def lines_of(*flags):
    command = [sys.executable, '-m', 'chromagan_jax.benchmark', '--rounds=2', '--steps=8']
    done = subprocess.run(
        [*command, '--config=configs/base.py:tiny', *flags],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_benchmark_prints_the_rates_of_step_and_loop():
    step, loop = lines_of()
    assert (step['name'], loop['name']) == ('train_step', 'loop')
    assert step['images_per_second'] > 0
    assert 0 < loop['of_step'] < 10
    assert loop['devices'] == 8


def test_the_train_step_can_be_timed_alone():
    (step,) = lines_of('--only=train_step')
    assert step['name'] == 'train_step'
    assert step['images_per_second'] > 0
