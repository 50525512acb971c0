"""Milliseconds of the convolutions in chromagan_jax/models/ops/conv.py.

    python -m benchmarks.convolutions

For each shape: forward, input gradient and kernel gradient of XLA's convolution, of `conv.conv`
without Winograd tiles, and of `conv.conv`. The choices in `conv` follow from this table. On other
back ends than a CPU all three are XLA's convolution.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import jax

from benchmarks import command
from chromagan_jax.models.ops import conv

# (batch, px, kernel, channels, features, padding)
SHAPES = [
    (8, 16, 4, 128, 256, (1, 1)),  # the PatchGAN's stride-1 level, 128 px, width 32
    (2, 32, 4, 256, 512, (1, 1)),  # the same, 256 px, width 64
    (8, 17, 2, 256, 128, (0, 0)),  # the U-Net's levels in space-to-depth form
    (8, 32, 2, 128, 128, (1, 1)),
    (8, 8, 2, 512, 512, (1, 1)),
    (8, 4, 2, 512, 1024, (1, 1)),
    (8, 64, 2, 64, 8, (1, 1)),  # the U-Net's last level
    (8, 65, 2, 12, 32, (0, 0)),  # the PatchGAN's first level
    (4, 106, 3, 128, 128, (1, 1)),  # VGG16 and the encoder-decoder
    (4, 30, 3, 512, 512, (1, 1)),
    (4, 120, 5, 32, 32, (2, 2)),
]


def main(argv: Sequence[str]) -> None:
    """Measures and prints a table."""
    del argv
    print('| batch, px, kernel, channels -> features | XLA | without tiles | chosen |')
    print('|---|---|---|---|')
    for batch, px, k, channels, features, padding in SHAPES:
        keys = jax.random.split(jax.random.key(0), 3)
        x = jax.random.normal(keys[0], (batch, px, px, channels))
        kernel = jax.random.normal(keys[1], (k, k, channels, features))
        dy = jax.random.normal(keys[2], conv.conv(x, kernel, padding).shape)

        def passes(f: Callable[..., Any], *args: Any, padding: Any = padding) -> str:
            x, kernel, dy = args
            functions = [
                lambda x, kernel, dy: f(x, kernel, padding),
                lambda x, kernel, dy: jax.vjp(lambda x: f(x, kernel, padding), x)[1](dy),
                lambda x, kernel, dy: jax.vjp(lambda w: f(x, w, padding), kernel)[1](dy),
            ]
            return ' + '.join(f'{milliseconds(g, x, kernel, dy):.1f}' for g in functions)

        with mock.patch.object(conv, '_TILES', {}):
            plain, untiled = passes(conv._lax, x, kernel, dy), passes(conv.conv, x, kernel, dy)
        chosen = passes(conv.conv, x, kernel, dy)
        shape = f'{batch}, {px}, {k}x{k}, {channels} -> {features}'
        print(f'| {shape} | {plain} | {untiled} | {chosen} |', flush=True)


def milliseconds(function: Callable[..., Any], *args: Any, runs: int = 7) -> float:
    """Median time of a compiled function, with its result waited for."""
    compiled = jax.jit(function).lower(*args).compile()
    jax.block_until_ready(compiled(*args))
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        seconds.append(time.perf_counter() - began)
    return 1e3 * statistics.median(seconds)


if __name__ == '__main__':
    command.start(main)
