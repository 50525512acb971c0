"""Stride-1 convolutions with fewer multiplications (Winograd 1980, Lavin and Gray 2016).

F(m, k) computes m outputs of a convolution with k taps from n = m + k - 1 products instead of m k,
and a tile of m x m pixels from n^2 instead of m^2 k^2 (https://arxiv.org/abs/1509.09308). That is
2.25 times fewer for F(3, 2) and F(2, 3), and 4 times for F(3, 4). Images and kernels are each
transformed into n^2 arrays. One matrix product per array sums over the channels, and the results
are transformed back.

In float32 the largest error is about 1e-6 of the largest value for n <= 4 and 5e-6 for n = 6. With
factors rounded to bfloat16 (`products.product`) the error is 0.4 % of the standard deviation of the
result for n <= 4, 1.7 times that of a direct convolution. For n = 6 it would be 1.6 %, so these
factors are not rounded.
"""

import functools
from collections.abc import Sequence
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from chromagan_jax.models.ops.products import product

Array = jax.Array
Padding = tuple[int, int]  # before and after, of both rows and columns
Matrix = np.ndarray

# Interpolation points; a tile takes the first n - 1 and infinity. The pair 1/2, -2 has half the
# error of 2, -2 (Barabasz et al. 2020, https://arxiv.org/abs/1803.10986).
_POINTS = (Fraction(0), Fraction(1), Fraction(-1), Fraction(1, 2), Fraction(-2))


@functools.cache
def matrices(m: int, k: int) -> tuple[Matrix, Matrix, Matrix]:
    """A (n, m), G (n, k) and B (n, n) with y = A^T ((G g) * (B d)), n = m + k - 1 <= 6.

    Toom-Cook: y[i] = sum_j d[i + j] g[j] is the transpose of a polynomial product, computed by
    evaluation at n points, multiplication and interpolation. The rows of B are scaled to integers,
    and the rows of G are divided by the same factors.
    """
    n = m + k - 1
    points = _POINTS[: n - 1]
    b = np.array(_inverse(_powers(points, n)), object).T
    whole = np.array([np.lcm.reduce([x.denominator for x in row]) for row in b], object)
    a, g = np.array(_powers(points, m), object), np.array(_powers(points, k), object)
    scaled = a, g / whole[:, None], b * whole[:, None]
    first, second, third = (matrix.astype(np.float64) for matrix in scaled)
    return first, second, third


def convolve(x: Array, kernel: Array, padding: Padding, m: int, transposed: bool = False) -> Array:
    """(B, H, W, C) with (k, k, C, F) -> (B, H + p - k + 1, W + p - k + 1, F), p = sum(padding).

    transposed: x has F channels and the result C, as for an input gradient. The kernel is rotated
    by 180 degrees, and its channel axes are swapped.
    """
    k = kernel.shape[0]
    a, g, b = matrices(m, k)
    size = x.shape[1] + sum(padding) - k + 1, x.shape[2] + sum(padding) - k + 1
    count = -(-size[0] // m), -(-size[1] // m)
    images = _transformed_tiles(b, x, padding, m, count)
    # The barrier keeps XLA from fusing this with a transposing product, which reads strided memory.
    kernels = lax.optimization_barrier(
        _transformed(g, kernel[::-1, ::-1] if transposed else kernel).reshape(-1, *kernel.shape[2:])
    )
    subscripts = 'ntc,nfc->ntf' if transposed else 'ntc,ncf->ntf'
    multiply = product if len(b) <= 4 else jnp.einsum
    products = multiply(subscripts, images, kernels)
    products = products.reshape(len(b), len(b), x.shape[0], *count, -1)
    rows = _stacked(a.T, products)  # (m, n, B, h, w, F)
    columns = _combinations(a.T, list(rows.swapaxes(0, 1)))
    y = jnp.stack(columns, -2).transpose(1, 2, 0, 3, 4, 5)  # (B, h, m, w, m, F)
    return y.reshape(y.shape[0], m * count[0], m * count[1], -1)[:, : size[0], : size[1]]


def kernel_gradient(x: Array, dy: Array, k: int, padding: Padding, m: int) -> Array:
    """Kernel gradient (k, k, C, F) of `convolve`, from x (B, H, W, C) and dy (B, h, w, F)."""
    a, g, b = matrices(m, k)
    count = -(-dy.shape[1] // m), -(-dy.shape[2] // m)
    images = _transformed_tiles(b, x, padding, m, count)
    gradients = _transformed_tiles(a, dy, (0, 0), m, count)
    products = jnp.einsum('ntc,ntf->ncf', images, gradients)
    return _transformed(g.T, products.reshape(len(b), len(b), *products.shape[1:]))


def _powers(points: Sequence[Fraction], count: int) -> list[list[Fraction]]:
    """`count` powers of each point and of infinity, for which only the highest is not 0."""
    infinity = [Fraction(int(i == count - 1)) for i in range(count)]
    return [[p**i for i in range(count)] for p in points] + [infinity]


def _inverse(matrix: list[list[Fraction]]) -> list[list[Fraction]]:
    """The exact inverse, by Gauss-Jordan elimination."""
    n = len(matrix)
    rows = [row + [Fraction(int(i == j)) for j in range(n)] for i, row in enumerate(matrix)]
    for i in range(n):
        pivot = next(j for j in range(i, n) if rows[j][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [x / rows[i][i] for x in rows[i]]
        for j in range(n):
            if j != i:
                factor = rows[j][i]
                rows[j] = [x - factor * y for x, y in zip(rows[j], rows[i], strict=True)]
    return [row[n:] for row in rows]


def _transformed_tiles(
    matrix: Matrix, x: Array, padding: Padding, m: int, count: tuple[int, int]
) -> Array:
    """Tiles of `x`, m px apart, with `matrix` (n, s) applied to their s rows and s columns.

    Returns:
        (n^2, T, C) for T tiles, B * count[0] * count[1].
    """
    side = matrix.shape[1]
    stops = [(n - 1) * m + 1 for n in count]
    after = [s - 1 + side - x.shape[i + 1] - padding[0] for i, s in enumerate(stops)]
    x = jnp.pad(x, ((0, 0), (padding[0], after[0]), (padding[0], after[1]), (0, 0)))
    columns = _stacked(matrix, [x[:, :, j : j + stops[1] : m] for j in range(side)])
    tiles = _stacked(matrix, [columns[:, :, i : i + stops[0] : m] for i in range(side)])
    return tiles.reshape(len(matrix) ** 2, -1, x.shape[3])


def _transformed(matrix: Matrix, grid: Array) -> Array:
    """Applies `matrix` (r, s) to the rows and columns of an array (s, s, ...) -> (r, r, ...)."""
    columns = _stacked(matrix, grid.swapaxes(0, 1))
    return _stacked(matrix, columns.swapaxes(0, 1))


def _stacked(matrix: Matrix, arrays: Sequence[Array] | Array) -> Array:
    """`_combinations` in one array, which XLA computes in one loop.

    A loop for each of the n^2 results would take several times longer to compile.
    """
    return jnp.stack(_combinations(matrix, list(arrays)))


def both(matrix: Matrix, grid: Sequence[Sequence[Array]]) -> list[list[Array]]:
    """Applies `matrix` (r, s) to rows and columns of a grid of s x s arrays -> r x r."""
    columns = [_combinations(matrix, column) for column in zip(*grid, strict=True)]
    return [_combinations(matrix, row) for row in zip(*columns, strict=True)]


def _combinations(matrix: Matrix, arrays: Sequence[Array]) -> list[Array]:
    """Sums of `arrays` weighted by each row of `matrix`; weights 0 and 1 cost nothing."""
    return [
        functools.reduce(
            jnp.add,
            [x if w == 1 else w * x for w, x in zip(row, arrays, strict=True) if w],
        )
        for row in matrix.tolist()
    ]
