"""4x4 stride-2 convolutions, and the space-to-depth form that the networks use.

    python -m benchmarks.strided --batch=16 --size=256 --width=64 --dtype=bfloat16

For each level of the U-Net's encoder and decoder: milliseconds of forward and both gradients of
XLA's strided (or input-dilated) convolution, and of the form in `layers.DownConv` and `UpConv`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from benchmarks import command
from benchmarks.benchmark import timed
from chromagan_jax.models import layers
from chromagan_jax.models.ops import conv

_BATCH = flags.DEFINE_integer('batch', 16, 'Photographs.')
_SIZE = flags.DEFINE_integer('size', 256, 'Side of a photograph, px.')
_WIDTH = flags.DEFINE_integer('width', 64, 'Features of the first level.')
_DTYPE = flags.DEFINE_enum('dtype', 'bfloat16', ['bfloat16', 'float32'], 'Type of all arrays.')

Array = jax.Array


def blocks_down(x: Array, kernel: Array) -> Array:
    """The same as `layers.strided_down`, with the kernel as `layers.DownConv` stores it."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return conv.conv(layers.space_to_depth(x), kernel)


def blocks_up(x: Array, kernel: Array) -> Array:
    """The same as `layers.strided_up`, with the kernel as `layers.UpConv` stores it."""
    return layers.depth_to_space(conv.conv(x, kernel, (1, 1)))[:, 1:-1, 1:-1]


def main(argv: Sequence[str]) -> None:
    """Measures and prints a table."""
    del argv
    print('| convolution, px, channels -> features | strided, ms | space-to-depth, ms |')
    print('|---|---:|---:|')
    for level in range(_SIZE.value.bit_length() - 1):
        px = _SIZE.value >> level
        channels = _WIDTH.value * min(8, 2 ** (level - 1)) if level else 1
        features = _WIDTH.value * min(8, 2**level)
        row('down', px, channels, features, layers.strided_down, blocks_down)
        # The decoder's input is the features of the level below and the skip connection.
        channels, features = 2 * features, _WIDTH.value * min(8, 2 ** (level - 1)) if level else 2
        row('up', px // 2, channels, features, layers.strided_up, blocks_up)


def row(
    way: str, px: int, channels: int, features: int, strided: Callable[..., Any], blocks: Any
) -> None:
    """Measures both forms of one convolution, after comparing their outputs."""
    dtype = jnp.dtype(_DTYPE.value)
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (_BATCH.value, px, px, channels), dtype)
    kernel = 0.02 * jax.random.normal(keys[1], (4, 4, channels, features), dtype)
    stored = getattr(layers, f'{way}_kernel_from_hwio')(kernel)
    y = strided(x, kernel)
    if not jnp.allclose(y, blocks(x, stored), rtol=0.05, atol=0.05 * float(jnp.abs(y).max())):
        raise AssertionError(f'{way} {px}: the outputs of the two forms differ')
    dy = jax.random.normal(keys[2], y.shape, dtype)

    def milliseconds(function: Callable[..., Any], kernel: Array) -> float:
        @jax.jit
        def passes(x: Array, kernel: Array, dy: Array) -> Any:
            y, pullback = jax.vjp(function, x, kernel)
            return y, pullback(dy)  # without y XLA would leave the forward pass out

        return 1e3 * timed(lambda: passes(x, kernel, dy))

    times = f'{milliseconds(strided, kernel):.3f} | {milliseconds(blocks, stored):.3f}'
    print(f'| {way}, {px}, {channels} -> {features} | {times} |', flush=True)


if __name__ == '__main__':
    command.start(main)
