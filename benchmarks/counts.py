"""Counts what a train step consists of, which unlike its time does not depend on other work.

    python -m benchmarks.counts
    python -m benchmarks.counts --check      exits with 1 if a count is above its bound

For each config in `CONFIGS`, on the CPU:

    equations    of the jaxpr, with those of its inner jaxprs: what tracing costs
    operations   of the StableHLO program: what compilation costs
    flop         of a step, as XLA counts them before it optimizes
    all_reduces  that the program asks for, with mesh.gradients=per_device on eight devices

counts.json holds the bounds: the counts of an earlier version. A count may exceed them by `MARGIN`,
since versions of JAX differ. --write stores the counts of this version.
"""

import os

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from jax.extend import core

from benchmarks import command
from benchmarks.scaling import explicit_collectives
from chromagan_jax import config as config_lib
from chromagan_jax import sharding
from chromagan_jax.config import Config
from chromagan_jax.gan import steps
from chromagan_jax.gan.model import make_model
from chromagan_jax.training import loop

_CHECK = flags.DEFINE_bool('check', False, 'Compare with the bounds.')
_WRITE = flags.DEFINE_bool('write', False, 'Store the counts as the bounds.')
CONFIGS = ('base', 'best', 'pix2pix')
SHARDED = ('pix2pix',)  # whose all-reduces are counted
BOUNDS = Path(__file__).with_name('counts.json')
MARGIN = 0.05  # share of a bound
SIZE = 128  # px


def main(argv: Sequence[str]) -> None:
    """Prints a JSON line for each config."""
    del argv
    found = {name: count(name) for name in CONFIGS}
    for name, counts in found.items():
        print(json.dumps({'name': name, **counts}), flush=True)
    if _WRITE.value:
        BOUNDS.write_text(json.dumps(found, indent=2) + '\n')
    if _CHECK.value and (more := exceeded(found, json.loads(BOUNDS.read_text()))):
        sys.exit('\n'.join(more))


def count(name: str) -> dict[str, int]:
    """The counts of the train step of a config at `SIZE` px."""
    config = config_lib.load(name)
    config.data.source, config.data.size, config.batch_size = 'sample', SIZE, 2
    traced = trace(config, 1)
    lowered = traced.lower()
    counts = {
        'equations': equations(traced.jaxpr.jaxpr),
        'operations': len(re.findall(r'^\s*(?:%\S+ = )?"?stablehlo\.', lowered.as_text(), re.M)),
        'flop': int(lowered.cost_analysis()['flops']),
    }
    if name in SHARDED:
        config.batch_size, config.mesh.gradients = 16, 'per_device'
        counts['all_reduces'] = len(explicit_collectives(trace(config, 8).lower().as_text()))
    return counts


def trace(config: Config, devices: int) -> Any:
    """The train step of a config, traced for a number of devices."""
    mesh = sharding.make_mesh(devices=jax.devices()[:devices])
    return loop.trace_step(make_model(config, mesh), config, mesh, steps.train_step)


def equations(jaxpr: core.Jaxpr) -> int:
    """Equations of a jaxpr and of all jaxprs inside it, each counted where it is called."""
    total = 0
    for equation in jaxpr.eqns:
        inner = jax.tree.leaves(
            equation.params, is_leaf=lambda x: isinstance(x, (core.Jaxpr, core.ClosedJaxpr))
        )
        total += 1
        for value in inner:
            if isinstance(value, core.ClosedJaxpr):
                total += equations(value.jaxpr)
            elif isinstance(value, core.Jaxpr):
                total += equations(value)
    return total


def exceeded(found: dict[str, dict[str, int]], bounds: dict[str, dict[str, int]]) -> list[str]:
    """A sentence for each count above its bound."""
    return [
        f'{name}: {value:,} {kind}, more than the {bounds[name][kind]:,} in {BOUNDS.name}: reduce '
        'them, or store the new count with --write and say why.'
        for name, counts in found.items()
        for kind, value in counts.items()
        if value > bounds[name][kind] * (1 + MARGIN)
    ]


if __name__ == '__main__':
    command.start(main)
