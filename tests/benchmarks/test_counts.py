"""Counts of the train step against their bounds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def python(program):
    return subprocess.run(
        [sys.executable, *program], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_a_count_above_its_bound_is_named():
    """In a process of its own, because the module asks for eight devices."""
    program = (
        'from benchmarks.counts import exceeded\n'
        "bounds = {'a': {'equations': 100, 'flop': 1000}}\n"
        "print(exceeded({'a': {'equations': 104, 'flop': 1100}}, bounds))"
    )
    done = python(['-c', program])
    assert done.stdout.startswith("['a: 1,100 flop, more than the 1,000 in counts.json: reduce"), (
        done
    )
    assert 'equations' not in done.stdout


@pytest.mark.slow
def test_the_train_step_stays_within_its_bounds():
    done = python(['-m', 'benchmarks.counts', '--check'])
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line['name'] for line in lines] == ['base', 'best', 'pix2pix']
    assert lines[-1]['all_reduces'] <= 8
    inner = python(
        [
            '-c',
            'from benchmarks.counts import equations\nimport jax\n'
            'f = jax.make_jaxpr(lambda x: jax.jit(lambda y: y * 2 + 1)(x) + x)(1.0)\n'
            'print(equations(f.jaxpr))',
        ]
    )
    assert inner.stdout.strip() == '4'  # the call, its two equations, and the sum
