import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent


def test_the_benchmark_prints_the_rates_of_step_and_loop():
    command = [sys.executable, '-m', 'chromagan_jax.benchmark', '--rounds=2', '--steps=8']
    done = subprocess.run(
        [*command, '--config=configs/base.py:tiny'],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    step, loop = (json.loads(line) for line in done.stdout.splitlines())
    assert (step['name'], loop['name']) == ('train_step', 'loop')
    assert step['images_per_second'] > 0
    assert 0 < loop['of_step'] < 10
    assert loop['devices'] == 8
