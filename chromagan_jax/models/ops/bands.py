"""A decoder level in inference: upsampling by 2, concatenation with a skip, two 3x3 convolutions.

Both convolutions use Winograd's F(2, 3) (Lavin and Gray 2016, https://arxiv.org/abs/1509.09308)
with one tile per low-resolution pixel. The 2x2 outputs of a tile are the four phases of that pixel.
Nearest-neighbour upsampling makes 7 of the 16 products of a tile zero.

Maps are stored as four phases, so tiles are slices with stride 1. The computation goes over bands
of rows, so the intermediate arrays of a band fit into the CPU's cache.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from chromagan_jax.models.ops import backend, winograd

Array = jax.Array
Grid = list[list[Array]]

_TILES = 256  # the largest number of tiles in a band
_PIXELS = 1000  # for low-resolution maps with fewer pixels, other formulations are faster
_A, _G, _B = winograd.matrices(2, 3)
# The four rows of a tile: row of the low-resolution map, padded by 1; phase and row of such a map.
_REPEATED = (0, 1, 1, 2)
_PHASES = ((1, 0), (0, 1), (1, 1), (0, 2))


class Layer(NamedTuple):
    """relu(scale * conv(x, kernel) + shift)."""

    kernel: Array  # (3, 3, C, F)
    scale: Array  # (F,)
    shift: Array  # (F,)


def pays(x: Array) -> bool:
    """Whether `doubled_level` is the fastest formulation for `x`, (B, h, w, C), on this backend."""
    pixels = x.shape[1] * x.shape[2]
    if backend.is_plain() or not backend.is_cpu():
        return False
    return x.dtype == jnp.float32 and pixels >= _PIXELS


def doubled_level(x: Array, skip: Array, first: Layer, second: Layer) -> Array:
    """Upsamples `x` by 2, concatenates it with `skip` and applies two layers with padding 1.

    Upsampling is nearest-neighbour.

    Args:
        x: (B, h, w, C), float32.
        skip: (B, 2h, 2w, S), float32.
        first: layer with a kernel (3, 3, C + S, F).
        second: layer with a kernel (3, 3, F, F).

    Returns:
        (B, 2h, 2w, F), float32.
    """
    batch, height, width, split = x.shape
    skip = skip.reshape(batch, height, 2, width, 2, -1).transpose(0, 1, 3, 2, 4, 5)
    skip = skip.reshape(batch, height, width, -1)
    kernel = first.kernel * first.scale
    for_x, for_skip = _transformed(kernel[:, :, :split]), _transformed(kernel[:, :, split:])
    for_second = _transformed(second.kernel * second.scale)

    def first_band(x: Array, skip: Array) -> Array:
        tiles = [[_shifted(x, row, column) for column in _REPEATED] for row in _REPEATED]
        products = _products(_tiles(skip), for_skip)
        for i, row in enumerate(_products(winograd.both(_B, tiles), for_x)):
            for j, product in enumerate(row):
                if i != 2 and j != 2:  # the other products of repeated pixels are zero
                    products[i][j] += product
        top, bottom = _activated(products, first.shift, x)
        return jnp.concatenate(top + bottom, axis=-1)

    def second_band(maps: Array) -> Array:
        phases = _activated(_products(_tiles(maps), for_second), second.shift, maps)
        y = jnp.stack([jnp.stack(row, 3) for row in phases], 2)  # (B, rows, 2, w, 2, F)
        return y.reshape(batch, 2 * y.shape[1], 2 * width, -1)

    maps = _in_bands(first_band, x, skip)
    return _in_bands(second_band, maps)


def _in_bands(function: Callable[..., Array], *maps: Array) -> Array:
    """Applies `function` to bands of rows of maps (B, h, w, ...) and concatenates the results.

    Each band is padded by one row and one column on all sides: (B, n + 2, w + 2, ...). The number
    of rows of a result is a multiple of n.
    """
    batch, height, width, _ = maps[0].shape
    fitting = [n for n in range(1, height + 1) if height % n == 0 and n * width <= _TILES]
    rows = max(fitting, default=1)
    # Columns are padded in the loop, which makes each band a contiguous array.
    maps = tuple(jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0))) for x in maps)

    def band(number: Array) -> Array:
        bands = (lax.dynamic_slice_in_dim(x, number * rows, rows + 2, axis=1) for x in maps)
        return function(*(jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0))) for x in bands))

    results = jnp.moveaxis(lax.map(band, jnp.arange(height // rows)), 0, 1)
    return results.reshape(batch, -1, *results.shape[3:])


def _transformed(kernel: Array) -> Grid:
    """(3, 3, C, F) -> 4x4 of (C, F)."""
    return winograd.both(_G, [list(row) for row in kernel])


def _shifted(x: Array, row: int, column: int) -> Array:
    """(B, n + 2, w + 2, C) -> (B n w, C): n x w pixels from that row and column."""
    height, width = x.shape[1] - 2, x.shape[2] - 2
    return x[:, row : row + height, column : column + width].reshape(-1, x.shape[3])


def _tiles(maps: Array) -> Grid:
    """Phases (B, n + 2, w + 2, 4C) -> transformed tiles, 4x4 of (B n w, C)."""
    channels = maps.shape[3] // 4

    def pixel(row: int, column: int) -> Array:
        (p, top), (q, left) = _PHASES[row], _PHASES[column]
        start = (2 * p + q) * channels
        return _shifted(maps[..., start : start + channels], top, left)

    return winograd.both(_B, [[pixel(i, j) for j in range(4)] for i in range(4)])


def _products(tiles: Grid, kernels: Grid) -> Grid:
    """4x4 of (B n w, C) and 4x4 of (C, F) -> 4x4 of (B n w, F)."""
    return [
        [x @ k for x, k in zip(*rows, strict=True)] for rows in zip(tiles, kernels, strict=True)
    ]


def _activated(products: Grid, shift: Array, like: Array) -> Grid:
    """4x4 products (B n w, F) -> 2x2 phases (B, n, w, F); `like` is (B, n + 2, w + 2, ...)."""
    batch, height, width, _ = like.shape
    return [
        [jax.nn.relu(y + shift).reshape(batch, height - 2, width - 2, -1) for y in row]
        for row in winograd.both(_A.T, products)
    ]
