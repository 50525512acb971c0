"""Speed of the train step by itself and inside the loop, measured in turn in one process.

    python -m chromagan_jax.benchmark --config=configs/base.py --config.data.size=128

Prints one JSON line a measurement: `train_step` is the compiled step, fed the same batch again and
again and waited for each time; `loop` is the whole training loop (reading, converting, placing,
metrics, log) without evaluations, samples and saves. `images_per_second` is the median over the
rounds, in which the two take turns, so that a machine whose speed drifts slows both; `of_step` is
the median over the rounds of the loop's rate as a share of the step's. --only=train_step leaves the
loop out.
"""

import json
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict

from chromagan_jax import main as main_lib
from chromagan_jax import sharding, startup, steps, train
from chromagan_jax import state as state_lib
from chromagan_jax.data.inputs import open_sources, training_input
from chromagan_jax.models import vgg

_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Measurements of each, in turn.')
_STEPS = flags.DEFINE_integer('steps', 20, 'Steps of a measurement.')
_ONLY = flags.DEFINE_multi_enum('only', None, ['train_step'], 'Leaves the loop out.')
WARM_UP = 4  # steps before the ones that count


def main(argv: Sequence[str]) -> None:
    """Measures and prints."""
    del argv
    config = flags.FLAGS.config
    rates: list[tuple[float, float]] = []
    for _ in range(_ROUNDS.value):
        step = bare_rate(config, _STEPS.value)
        rates.append((step, math.nan if _ONLY.value else loop_rate(config, _STEPS.value)))
    described = {
        'size': config.data.size,
        'batch_size': config.batch_size,
        'device': jax.devices()[0].device_kind,
        'devices': jax.device_count(),
    }
    step, loop = (statistics.median(column) for column in zip(*rates, strict=True))
    print(json.dumps({'name': 'train_step', 'images_per_second': step, **described}))
    if not _ONLY.value:
        share = statistics.median(loop / step for step, loop in rates)
        print(
            json.dumps({'name': 'loop', 'images_per_second': loop, 'of_step': share, **described})
        )


def bare_rate(config: Any, count: int) -> float:
    """Images a second of the compiled step on one batch that stays on the devices."""
    mesh = sharding.make_mesh(config.mesh.fsdp)
    system = state_lib.make_system(config, mesh)
    say = lambda text: None
    step = train.compile_step(system, config, mesh, say, steps.train_step)
    state = state_lib.create_state(system, config, mesh)
    vgg16 = vgg.load(Path(config.vgg16)) if config.vgg16 else None
    teacher = startup.place_teacher(system, vgg16, mesh)
    inputs = training_input(config, open_sources(config)[0], mesh, 0)
    batch = next(inputs)
    inputs.close()
    del batch['unreadable']
    placed = sharding.to_global(batch, mesh, config.accumulate)
    for done in range(WARM_UP + count):
        if done == WARM_UP:
            began = time.perf_counter()
        state, metrics = step(state, placed, teacher)
        jax.block_until_ready(metrics)
    return count * config.batch_size / (time.perf_counter() - began)


def loop_rate(config: Any, steps: int) -> float:
    """Images a second that the training loop finds over `steps` steps, after warming up."""
    config = ConfigDict(config.to_dict())
    config.steps, config.log_every = WARM_UP + steps, WARM_UP
    config.eval_every = config.sample_every = config.plateau.patience = 0
    config.checkpoint_every = 10**9
    with tempfile.TemporaryDirectory() as folder:
        train.train_and_evaluate(config, Path(folder))
        lines = [json.loads(line) for line in (Path(folder) / 'metrics.jsonl').open()][1:]
    seconds = 0.0
    for before, line in zip([WARM_UP, *(line['step'] for line in lines)], lines, strict=False):
        seconds += (line['step'] - before) * config.batch_size / line['images_per_second']
    return steps * config.batch_size / seconds


if __name__ == '__main__':
    logging.set_verbosity(logging.FATAL)
    app.run(main, flags_parser=main_lib.parse_flags)
