"""Measures the speed of a config on this machine.

    python -m benchmarks.benchmark --config=configs/base.py --config.data.size=128

Measures the parts in --only, or all of them, in one process:

    matmul      peak FLOP/s: a large matrix product in the config's dtype
    compile     compilation of the train step, with an empty and with a filled persistent cache
    state       making of the initial state, with an empty and with a filled persistent cache
    train_step  the compiled step on random data on the devices: time, FLOP, memory of the devices
                and peak memory of this process
    pipeline    reading, decoding, resizing, batching and Lab conversion, each in one thread, and
                the whole input pipeline with the config's workers and threads
    loop        the training loop (input, transfer, metrics, log) without evaluations, samples and
                saves, alternating with the bare step; and the share of time spent waiting for data
    colorize    photographs of the source from file to file, and one array

Figures are medians over --rounds after warm-up; every result is waited for. A table goes to
standard error. Standard output gets one JSON object a part with its `name`, the shapes, the device
and, if it applies, `images_per_second`.
"""

import copy
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.experimental.compilation_cache import compilation_cache

from benchmarks import command, steps
from benchmarks.steps import ROUNDS, STEPS, WARM_UP
from chromagan_jax import color, sharding
from chromagan_jax.config import Config
from chromagan_jax.config.postprocess import OFF
from chromagan_jax.data.decode import UnreadableImage, crop_square, decode, resize
from chromagan_jax.data.inputs import open_sources, thread_count, training_input
from chromagan_jax.gan import state as state_lib
from chromagan_jax.gan.model import make_model
from chromagan_jax.inference import batch as batch_lib
from chromagan_jax.inference.outcomes import Job
from chromagan_jax.inference.predictor import colorize_with, make_predict
from chromagan_jax.training import loop as loop_lib

for name in ('rounds', 'steps', 'warm_up'):
    flags.declare_key_flag(name)
MATMUL = {'cpu': 2048, 'gpu': 8192, 'tpu': 8192}  # rows and columns
DECODED = 64  # photographs, for the stages of the pipeline
COLORIZED = 64  # files
READING = ('pipeline', 'loop', 'colorize')  # parts that read photographs

Line = dict[str, Any]


def main(config: Config) -> None:
    """Measures and prints."""
    sharding.disable_async_cpu_dispatch()
    cv2.setNumThreads(1)  # as in the commands
    described = {
        'size': config.data.size,
        'batch_size': config.batch_size,
        'dtype': config.dtype,
        'generator': type(config.generator).__name__,
        'discriminator': type(config.discriminator).__name__,
        'width': getattr(config.generator, 'width', None),
        'discriminator_width': getattr(config.discriminator, 'width', None),
        'workers': config.data.workers,
        'threads': config.data.threads,
        'device': jax.devices()[0].device_kind,
        'devices': jax.device_count(),
        **command.describe(),
    }
    found: dict[str, Line] = {}
    for name in _ONLY.value or PARTS:
        read = {'source': config.data.source} if name in READING else {}
        found[name] = {'name': name, **PARTS[name](config), **described, **read}
        if name == 'train_step' and 'matmul' in found:
            peak = found['matmul']['flop_per_second']
            found[name]['of_matmul'] = found[name]['flop_per_second'] / peak
        print(json.dumps(found[name]), flush=True)
        for key in found[name].keys() - described.keys() - read.keys() - {'name'}:
            print(f'{name:12} {key:28} {found[name][key]:,.4g}', file=sys.stderr, flush=True)


def matmul(config: Config) -> Line:
    """FLOP/s of an (N, N) by (N, N) product on one device, times the number of devices."""
    side = MATMUL.get(jax.default_backend(), 8192)
    factor = jnp.ones((side, side), config.dtype)
    product = jax.jit(jnp.matmul)
    seconds = timed(lambda: product(factor, factor))
    return {'side': side, 'flop_per_second': 2 * side**3 / seconds * jax.device_count()}


def compile_times(config: Config) -> Line:
    """Seconds to compile the train step with an empty and with a filled persistent cache."""
    return cold_and_cached(lambda: steps.compiled(config))


def state_times(config: Config) -> Line:
    """Seconds to make the initial state with an empty and with a filled persistent cache."""
    return cold_and_cached(lambda: steps.make_inputs(config).state)


def cold_and_cached(work: Callable[[], Any]) -> Line:
    """Seconds of `work` with an empty and with a filled persistent cache of compiled functions."""
    settings: dict[str, Any] = {
        'jax_persistent_cache_min_compile_time_secs': 0.0,
        'jax_persistent_cache_min_entry_size_bytes': 0,
    }
    with tempfile.TemporaryDirectory() as folder:
        settings['jax_compilation_cache_dir'] = folder
        before = {name: jax.config.values[name] for name in settings}
        seconds = []
        try:
            for name, value in settings.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()
            for _ in range(2):
                jax.clear_caches()
                began = time.perf_counter()
                jax.block_until_ready(work())
                seconds.append(time.perf_counter() - began)
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()
    return {'cold_seconds': seconds[0], 'cached_seconds': seconds[1]}


def train_step(config: Config) -> Line:
    """Time, FLOP and memory of the train step."""
    step, inputs = steps.compiled(config), steps.make_inputs(config)
    seconds = []
    for _ in range(ROUNDS.value):
        times, inputs = steps.seconds_of(step, inputs)
        seconds += times
    median = statistics.median(seconds)
    quartiles = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [median] * 3
    line = {
        'images_per_second': config.batch_size / median,
        'seconds': median,
        'seconds_spread': quartiles[2] - quartiles[0],  # interquartile range
    }
    compiled_step: Any = step
    if flop := (compiled_step.cost_analysis() or {}).get('flops'):
        flop *= jax.device_count()  # cost_analysis() is of one device's program
        line |= {'flop': flop, 'flop_per_second': flop / median}
    if memory := compiled_step.memory_analysis():
        # The state is donated: outputs need no memory of their own.
        line['memory_bytes'] = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    if held := (jax.local_devices()[0].memory_stats() or {}).get('peak_bytes_in_use'):
        line['peak_memory_bytes'] = held
    return line | {'peak_bytes': command.peak_bytes()}


def pipeline(config: Config) -> Line:
    """Images/s of each stage in one thread, and of the whole input pipeline."""
    source = open_sources(config)[0]
    indices = [i * len(source) // DECODED for i in range(DECODED)]
    size = config.data.size
    load = round(size * config.data.resize_ratio)
    encoded = [source[index]['image'] for index in indices]
    pixels = list(readable(encoded, load))
    squares = [crop_square(p, min(p.shape[:2])) for p in pixels]
    crops = [resize(square, size, size) for square in squares]
    stages: dict[str, Callable[[], Any]] = {
        'read': lambda: [source[index]['image'] for index in indices],
        'decode': lambda: list(readable(encoded, load)),
        'resize': lambda: [resize(square, size, size) for square in squares],
        'batch': lambda: np.stack(crops),
        'encode': lambda: [color.encode(crop, config.color_space) for crop in crops],
    }
    rates = {f'{name}_per_second': DECODED / timed(stage) for name, stage in stages.items()}
    together = 1 / sum(1 / rate for rate in rates.values())
    return {
        'images_per_second': input_rate(config),
        **rates,
        'one_thread_per_second': together,
        'one_thread_of_decode': together / rates['decode_per_second'],  # the minimum
    }


def readable(encoded: Sequence[bytes], load: int) -> Iterator[np.ndarray]:
    """Yields the pixels of the images that can be decoded, (H, W, 3) uint8."""
    for data in encoded:
        try:
            yield decode(data, load)
        except UnreadableImage:  # the pipeline would replace it
            continue


def input_rate(config: Config) -> float:
    """Images/s of the whole input pipeline, without the batches prefetched during warm-up."""
    mesh = sharding.make_mesh(config.mesh.fsdp)
    batches = training_input(config, open_sources(config)[0], mesh, 0)
    threads = thread_count(config.data.threads, config.data.workers)
    ahead = (config.data.prefetch + threads) * max(1, config.data.workers)
    rates = []
    for _ in range(WARM_UP.value + ahead):
        next(batches)
    for _ in range(ROUNDS.value):
        began = time.perf_counter()
        for _ in range(STEPS.value):
            sharding.to_global(next(batches), mesh)
        rates.append(STEPS.value * config.batch_size / (time.perf_counter() - began))
    batches.close()
    return statistics.median(rates)


def loop(config: Config) -> Line:
    """The training loop and the bare step, alternating, so that a slowdown affects both."""
    step, inputs = steps.compiled(config), steps.make_inputs(config)
    shares, rates, waits = [], [], []
    for _ in range(ROUNDS.value):
        # A mean, like the loop's, so that outliers count on both sides.
        times, inputs = steps.seconds_of(step, inputs)
        bare = config.batch_size / statistics.fmean(times)
        rate, wait = loop_rate(config, STEPS.value)
        shares.append(rate / bare)
        rates.append(rate)
        waits.append(wait)
    return {
        'images_per_second': statistics.median(rates),
        'of_step': statistics.median(shares),
        'waiting_for_data': statistics.median(waits),
    }


def loop_rate(config: Config, count: int) -> tuple[float, float]:
    """Images/s of `count` steps of the loop, and the share of time spent waiting for data."""
    config = copy.deepcopy(config)
    config.steps, config.log_every = WARM_UP.value + count, WARM_UP.value
    config.eval_every = config.sample_every = config.reduce_lr_on_plateau.patience = 0
    # Those steps do less than the step that the loop is compared with.
    config.pretrain_steps = config.discriminator_warmup_steps = 0
    config.checkpoint_every = 10**9
    with tempfile.TemporaryDirectory() as folder:
        loop_lib.train_and_evaluate(config, Path(folder))
        lines = [json.loads(line) for line in (Path(folder) / 'metrics.jsonl').open()]
    seconds = 0.0
    for before, line in itertools.pairwise(lines):
        seconds += (line['step'] - before['step']) * config.batch_size / line['images_per_second']
    waits = [line['waiting_for_data'] for line in lines[1:]]
    return count * config.batch_size / seconds, statistics.median(waits)


def colorizing(config: Config) -> Line:
    """Files/s of the `colorize` command with random weights, and seconds of one array."""
    mesh = sharding.make_mesh(devices=jax.local_devices()[:1])
    model = make_model(config, mesh)
    generator = model.generator
    variables = state_lib.generator_variables(state_lib.create_state(model, config, mesh))
    source, size = open_sources(config)[0], config.data.size
    one = np.random.default_rng(0).integers(0, 256, (384, 512, 3), np.uint8)
    predict = make_predict(generator, variables, (size,), batch_size=1)
    latency = timed(lambda: colorize_with(predict, [one], size, 1, None, OFF, None))
    threads = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for i in range(COLORIZED):
            path = Path(folder) / f'{i}.jpg'
            path.write_bytes(source[i % len(source)]['image'])
            found.append(Job(path, path.with_suffix('.png')))
        seconds = timed(lambda: batch_lib.colorize_files(found, predict, size, threads=threads))
    return {'images_per_second': COLORIZED / seconds, 'latency_seconds': latency}


def timed(work: Callable[[], Any]) -> float:
    """Median seconds of `work`, with its result waited for, after one warm-up run."""
    seconds = []
    for _ in range(1 + ROUNDS.value):
        began = time.perf_counter()
        jax.block_until_ready(work())
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


PARTS: Mapping[str, Callable[[Any], Line]] = {
    'matmul': matmul,
    'compile': compile_times,
    'state': state_times,
    'train_step': train_step,
    'pipeline': pipeline,
    'loop': loop,
    'colorize': colorizing,
}
_ONLY = flags.DEFINE_list('only', [], 'Parts to measure, comma-separated; all by default.')
flags.register_validator(
    _ONLY,
    lambda names: set(names) <= set(PARTS),
    f'--only takes comma-separated names of parts: {", ".join(PARTS)}.',
)


if __name__ == '__main__':
    command.run(main)
