import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

ROOT = Path(__file__).parents[2]


def summary(*arguments):
    command = [sys.executable, '-m', 'benchmarks.trace', *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_operations_of_compiled_programs_are_counted_and_the_dearest_come_first(tmp_path):
    def cheap_and_dear(x):
        return jnp.sort(jnp.tile(x, 2000)).sum() + jnp.cumsum(x).sum()

    program = jax.jit(cheap_and_dear)
    jax.block_until_ready(program(jnp.arange(100.0)))
    with jax.profiler.trace(str(tmp_path)):
        for _ in range(3):
            jax.block_until_ready(program(jnp.arange(100.0)))
    done = summary(tmp_path, '--top=1')
    assert done.returncode == 0, done.stderr
    kind, operation = (line.split() for line in done.stdout.splitlines() if '%' in line)
    assert kind[-1] == operation[-1].split('.')[0] == 'sort'
    assert operation[2] == '3'


def test_a_folder_without_a_trace_ends_it_with_a_sentence(tmp_path):
    done = summary(tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith('No trace: name a folder')
