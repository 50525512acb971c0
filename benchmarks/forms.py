"""The train step with each choice of formulations on and off, and with rematerialisation.

    python -m benchmarks.forms --config=configs/base.py --config.dtype=bfloat16 --batches=64,16

Measures the step as it is, with one field of `backend.Forms` changed at a time, and with
rematerialisation, at each batch size, in one process. Prints a JSON line for each: time, and memory
of the compiled program. No further line starts after --limit seconds; the rest is named.
"""

import json
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

from absl import flags

from benchmarks import command, steps
from chromagan_jax import sharding
from chromagan_jax.config import Config
from chromagan_jax.models.ops import backend

_BATCHES = flags.DEFINE_list('batches', ['64', '16'], 'Batch sizes.')
_LIMIT = flags.DEFINE_integer('limit', 240, 'Seconds after which no further line starts.')
for name in ('rounds', 'steps', 'warm_up'):
    flags.declare_key_flag(name)

CHOICES = [
    backend.Forms(),
    backend.Forms(kernel_gradient='plain'),
    backend.Forms(kernel_gradient='exchanged'),
    backend.Forms(stride='strides'),
]


def main(config: Config) -> None:
    """Measures and prints."""
    began = time.monotonic()
    sharding.disable_async_cpu_dispatch()
    inputs = None
    for batch, forms, remat in plan():
        name = f'train_step, {label(forms)}' + (', remat' if remat else '')
        if time.monotonic() - began > _LIMIT.value:
            print(f'no time left for: batch {batch}, {name}', file=sys.stderr)
            continue
        config.batch_size, config.remat = batch, remat
        if inputs is None:
            inputs = steps.make_inputs(config)
        inputs = inputs._replace(batch=steps.random_batch(config))
        line, inputs = measure(config, forms, inputs)
        settings = {
            **{'size': config.data.size, 'batch_size': batch, 'dtype': config.dtype},
            'width': getattr(config.generator, 'width', None),
            'discriminator_width': getattr(config.discriminator, 'width', None),
        }
        print(json.dumps({'name': name, **settings, **line, **command.describe()}), flush=True)


def plan() -> Iterator[tuple[int, backend.Forms, bool]]:
    """Batch size, formulations and remat of each line, the most important first."""
    batches = list(map(int, _BATCHES.value))
    for forms in CHOICES:
        for batch in batches:
            yield batch, forms, False
    for batch in batches:
        yield batch, backend.Forms(), True


def label(forms: backend.Forms) -> str:
    """The fields that are not the defaults."""
    pairs = zip(forms._fields, forms, backend.Forms(), strict=True)
    return ', '.join(f'{name}={value}' for name, value, own in pairs if value != own) or 'defaults'


def measure(
    config: Config, forms: backend.Forms, inputs: steps.Inputs
) -> tuple[dict[str, Any], steps.Inputs]:
    """Times and memory of one step, and the inputs of the next one."""
    began = time.monotonic()
    with backend.using(forms):
        step: Any = steps.compiled(config)
    compiled, seconds = time.monotonic() - began, []
    for _ in range(steps.ROUNDS.value):
        times, inputs = steps.seconds_of(step, inputs)
        seconds += times
    median, memory = statistics.median(seconds), step.memory_analysis()
    line = {
        'images_per_second': config.batch_size / median,
        'seconds': median,
        'compile_seconds': compiled,
        'memory_bytes': memory.argument_size_in_bytes + memory.temp_size_in_bytes,
    }
    return line, inputs


if __name__ == '__main__':
    command.run(main)
