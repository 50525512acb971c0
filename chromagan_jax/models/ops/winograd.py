"""Stride-1 convolutions with fewer multiplications (Winograd 1980, Lavin and Gray 2016).

F(m, k) computes m outputs of a convolution with k taps from n = m + k - 1 products instead of m k,
and a tile of m x m pixels from n^2 instead of m^2 k^2 (https://arxiv.org/abs/1509.09308). That is
2.25 times fewer for F(3, 2) and F(2, 3), and 4 times for F(3, 4). Images and kernels are each
transformed into n^2 arrays. One matrix product per array sums over the channels, and the results
are transformed back.

In float32 the largest error is about 1e-6 of the largest value for n <= 4 and 5e-6 for n = 6. The
error of bfloat16 would be too large.
"""

import functools
from collections.abc import Sequence
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

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
    images = both(b, _tiles(x, padding, k, m, count))
    # The barrier keeps XLA from fusing this with a transposing product, which reads strided memory.
    taps = [list(row) for row in (kernel[::-1, ::-1] if transposed else kernel)]
    kernels = lax.optimization_barrier(both(g, taps))
    product = 'tc,fc->tf' if transposed else 'tc,cf->tf'
    pixels = both(a.T, _products(product, images, kernels))
    pixels = [[pixel.reshape(x.shape[0], *count, -1) for pixel in row] for row in pixels]
    y = jnp.stack([jnp.stack(row, 3) for row in pixels], 2)  # (B, h, m, w, m, F)
    return y.reshape(y.shape[0], m * count[0], m * count[1], -1)[:, : size[0], : size[1]]


def kernel_gradient(x: Array, dy: Array, k: int, padding: Padding, m: int) -> Array:
    """Kernel gradient (k, k, C, F) of `convolve`, from x (B, H, W, C) and dy (B, h, w, F)."""
    a, g, b = matrices(m, k)
    count = -(-dy.shape[1] // m), -(-dy.shape[2] // m)
    images = both(b, _tiles(x, padding, k, m, count))
    gradients = both(a, _tiles(dy, (0, 0), 1, m, count))
    products = _products('tc,tf->cf', images, gradients)
    return jnp.stack([jnp.stack(row) for row in both(g.T, products)])


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


def _tiles(x: Array, padding: Padding, k: int, m: int, count: tuple[int, int]) -> list[list[Array]]:
    """Element [i][j] is pixel (i, j) of all T tiles, (T, C): m apart, m + k - 1 px a side."""
    after = [n * m + k - 1 - x.shape[i + 1] - padding[0] for i, n in enumerate(count)]
    x = jnp.pad(x, ((0, 0), (padding[0], after[0]), (padding[0], after[1]), (0, 0)))
    stops = [(n - 1) * m + 1 for n in count]
    n = range(m + k - 1)
    return [
        [x[:, i : i + stops[0] : m, j : j + stops[1] : m].reshape(-1, x.shape[3]) for j in n]
        for i in n
    ]


def _products(
    subscripts: str, left: list[list[Array]], right: list[list[Array]]
) -> list[list[Array]]:
    return [
        [jnp.einsum(subscripts, *factors) for factors in zip(*rows, strict=True)]
        for rows in zip(left, right, strict=True)
    ]


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
