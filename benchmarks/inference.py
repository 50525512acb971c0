r"""Images/s of the generator of configs/lite_unet.py at inference, or of its PyTorch twin.

    python -m benchmarks.inference --size=256 --batch=1
    python -m benchmarks.ratio --rounds=5 --ours='python -m benchmarks.inference' \
        --theirs='python -m benchmarks.inference --twin'

The weights are random. The generator is the program that `colorize` compiles. Prints the median
over --runs as JSON. The twin needs PyTorch (the extra `[parity]`) and runs in channels-last format,
which PyTorch recommends for convolutions on a CPU.
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from benchmarks import command
from chromagan_jax.config import load
from chromagan_jax.gan.model import make_generator
from chromagan_jax.inference import network

_SIZE = flags.DEFINE_integer('size', 256, 'Side of an image, px.', lower_bound=1)
_BATCH = flags.DEFINE_integer('batch', 1, 'Images in a batch.', lower_bound=1)
_RUNS = flags.DEFINE_integer('runs', 20, 'Measured runs, after three of warm-up.', lower_bound=1)
_TWIN = flags.DEFINE_bool('twin', False, 'Measure the PyTorch twin.')


def main(argv: Sequence[str]) -> None:
    """Measures one of the two generators and prints its rate."""
    del argv
    condition = np.random.default_rng(0).uniform(-1, 1, (_BATCH.value, _SIZE.value, _SIZE.value))
    run = (_twin if _TWIN.value else _here)(condition.astype(np.float32))
    seconds = []
    for number in range(3 + _RUNS.value):
        began = time.perf_counter()
        run()
        if number >= 3:
            seconds.append(time.perf_counter() - began)
    rate = _BATCH.value / statistics.median(seconds)
    side = 'PyTorch' if _TWIN.value else 'chromagan_jax'
    print(json.dumps({'name': side, 'size': _SIZE.value, 'images_per_second': rate}))


def _here(condition: np.ndarray) -> Callable[[], Any]:
    generator = make_generator(load('lite_unet'))
    x = jax.device_put(condition[..., None])
    variables = jax.jit(lambda x: generator.init(jax.random.key(0), x, train=False))(x)
    image = jax.ShapeDtypeStruct(x.shape, x.dtype)
    predict = network._program(generator, variables, image, noise=False)
    seeds = np.zeros(len(x), np.uint32)  # without noise they have no effect
    return lambda: jax.block_until_ready(predict(x, seeds))


def _twin(condition: np.ndarray) -> Callable[[], Any]:
    import torch

    from tools.torch_twin.networks import Generator

    twin = Generator().eval()
    twin = twin.to(memory_format=torch.channels_last)
    x = torch.from_numpy(condition[:, None])

    def run() -> None:
        with torch.inference_mode():
            twin(x)

    return run


if __name__ == '__main__':
    command.start(main)
