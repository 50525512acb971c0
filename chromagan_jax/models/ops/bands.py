"""A level of a decoder in bands of rows: two 3x3 convolutions of a doubled map, at test time.

Both are Winograd's F(2, 3) with a tile for each pixel before it is doubled: the four pixels that
it becomes (its phases) are the result of the tile. Where pixels are repeated, 7 of the 16 products
of a tile are zero. Maps are kept as phases, so that a tile is made of slices without a stride. A
band of rows at a time keeps the arrays between the operations in a cache.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from chromagan_jax.models.ops import winograd

Array = jax.Array
Grid = list[list[Array]]

_TILES = 256  # in a band, at most
_PIXELS = 1000  # before doubling, below which other formulations are faster
_A, _G, _B = winograd.matrices(2, 3)
_REPEATED = (0, 1, 1, 2)  # the rows of a doubled map that a tile sees, from one above it on
_PHASES = ((1, 0), (0, 1), (1, 1), (0, 2))  # phase and row of a map of phases that it sees


class Layer(NamedTuple):
    """A 3x3 convolution, what its result is scaled by and shifted by, and ReLU."""

    kernel: Array  # (3, 3, C, F)
    scale: Array  # (F,)
    shift: Array  # (F,)


def pays(x: Array) -> bool:
    """Whether `doubled_level` is the fastest formulation for (B, h, w, C), on this back end."""
    pixels = x.shape[1] * x.shape[2]
    return jax.default_backend() == 'cpu' and x.dtype == jnp.float32 and pixels >= _PIXELS


def doubled_level(x: Array, skip: Array, first: Layer, second: Layer) -> Array:
    """`first` of `x` doubled by repeating pixels and joined with `skip`, then `second`; padding 1.

    Args:
        x: (B, h, w, C).
        skip: (B, 2h, 2w, S).
        first: its kernel is (3, 3, C + S, F).
        second: its kernel is (3, 3, F, F).

    Returns:
        (B, 2h, 2w, F) float32.
    """
    batch, height, width, split = x.shape
    skip = skip.reshape(batch, height, 2, width, 2, -1).transpose(0, 1, 3, 2, 4, 5)
    skip = skip.reshape(batch, height, width, -1)
    kernel = first.kernel * first.scale
    of_doubled, of_skip = _transformed(kernel[:, :, :split]), _transformed(kernel[:, :, split:])
    of_second = _transformed(second.kernel * second.scale)

    def first_band(x: Array, skip: Array) -> Array:
        seen = [[_shifted(x, row, column) for column in _REPEATED] for row in _REPEATED]
        products = _products(_tiles(skip), of_skip)
        for i, row in enumerate(_products(winograd.both(_B, seen), of_doubled)):
            for j, product in enumerate(row):
                if i != 2 and j != 2:  # there the tile of a doubled map is zero
                    products[i][j] += product
        top, bottom = _activated(products, first.shift, x)
        return jnp.concatenate(top + bottom, axis=-1)

    def second_band(maps: Array) -> Array:
        phases = _activated(_products(_tiles(maps), of_second), second.shift, maps)
        y = jnp.stack([jnp.stack(row, 3) for row in phases], 2)  # (B, rows, 2, w, 2, F)
        return y.reshape(batch, 2 * y.shape[1], 2 * width, -1)

    maps = _in_bands(first_band, x, skip)
    return _in_bands(second_band, maps)


def _in_bands(function: Callable[..., Array], *maps: Array) -> Array:
    """`function` of bands of maps (B, h, w, ...), each with a row and a column more on all sides.

    Its result for n rows is a whole multiple of n rows.
    """
    batch, height, width, _ = maps[0].shape
    fitting = [n for n in range(1, height + 1) if height % n == 0 and n * width <= _TILES]
    rows = max(fitting, default=1)
    # The columns are padded in the loop: so each band is an array of its own.
    maps = tuple(jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0))) for x in maps)

    def band(number: Array) -> Array:
        bands = (lax.dynamic_slice_in_dim(x, number * rows, rows + 2, axis=1) for x in maps)
        return function(*(jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0))) for x in bands))

    results = jnp.moveaxis(lax.map(band, jnp.arange(height // rows)), 0, 1)
    return results.reshape(batch, -1, *results.shape[3:])


def _transformed(kernel: Array) -> Grid:
    return winograd.both(_G, [list(row) for row in kernel])


def _shifted(x: Array, row: int, column: int) -> Array:
    """(B, n + 2, w + 2, C) -> (B n w, C), from that row and column on."""
    height, width = x.shape[1] - 2, x.shape[2] - 2
    return x[:, row : row + height, column : column + width].reshape(-1, x.shape[3])


def _tiles(maps: Array) -> Grid:
    """Four phases, (B, n + 2, w + 2, 4C) -> the transformed pixels of tiles, 4x4 of (B n w, C)."""
    channels = maps.shape[3] // 4

    def pixel(row: int, column: int) -> Array:
        (p, top), (q, left) = _PHASES[row], _PHASES[column]
        start = (2 * p + q) * channels
        return _shifted(maps[..., start : start + channels], top, left)

    return winograd.both(_B, [[pixel(i, j) for j in range(4)] for i in range(4)])


def _products(tiles: Grid, kernels: Grid) -> Grid:
    return [
        [x @ k for x, k in zip(*rows, strict=True)] for rows in zip(tiles, kernels, strict=True)
    ]


def _activated(products: Grid, shift: Array, like: Array) -> Grid:
    """The four phases, (B, n, w, F), from the 4x4 products; `like` is (B, n + 2, w + 2, ...)."""
    batch, height, width, _ = like.shape
    return [
        [jax.nn.relu(y + shift).reshape(batch, height - 2, width - 2, -1) for y in row]
        for row in winograd.both(_A.T, products)
    ]
