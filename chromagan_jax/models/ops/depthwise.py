"""Depthwise convolutions in the formulation that the back end computes fastest.

XLA's grouped convolution is fast on a GPU. On a CPU it is many times slower than a sum of shifted
products, one per tap of the kernel, which XLA fuses into one loop.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from chromagan_jax.models.ops import backend

Array = jax.Array
Padding = tuple[tuple[int, int], tuple[int, int]]  # before and after, of rows and of columns


def depthwise_conv(x: Array, kernel: Array, stride: int = 1) -> Array:
    """Convolves each channel with its own kernel; TensorFlow's SAME padding.

    Args:
        x: (B, H, W, C).
        kernel: (k, k, C), with the type of `x`.
        stride: 1 or 2.

    Returns:
        (B, ceil(H / stride), ceil(W / stride), C).
    """
    if backend.is_cpu():
        return _shifted(x, kernel, stride)
    return _grouped(x, kernel, stride)


def same_padding(size: tuple[int, ...], k: int, stride: int) -> Padding:
    """TensorFlow's SAME padding of (H, W) for a k x k kernel: (before, after) of rows, columns."""
    totals = [max((-(-n // stride) - 1) * stride + k - n, 0) for n in size]
    top, left = (total // 2 for total in totals)
    return (top, totals[0] - top), (left, totals[1] - left)


def _grouped(x: Array, kernel: Array, stride: int) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (stride, stride),
        'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=x.shape[-1],
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _shifted(x: Array, kernel: Array, stride: int) -> Array:
    return _sum_of_taps(x, kernel, stride)


def _sum_of_taps(x: Array, kernel: Array, stride: int) -> Array:
    k = len(kernel)
    height, width = (-(-size // stride) for size in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), *same_padding(x.shape[1:3], k, stride), (0, 0)))
    bottom, right = (height - 1) * stride + 1, (width - 1) * stride + 1
    y = jnp.zeros((), x.dtype)
    for i in range(k):
        for j in range(k):
            y += x[:, i : i + bottom : stride, j : j + right : stride] * kernel[i, j]
    return y


def _input_gradient(dy: Array, kernel: Array, stride: int, size: tuple[int, int]) -> Array:
    """(B, h, w, C) -> (B, *size, C).

    Row r of the padded input is multiplied by the taps i with (r - i) % stride == 0. So each of the
    stride^2 phases of the input gradient is a sum of shifted products with a subset of the taps.
    Autodiff would write one array per tap instead.
    """
    k, (b, h, w, c) = len(kernel), dy.shape
    padding = same_padding(size, k, stride)
    reach = (k - 1) // stride  # rows of dy between the first and the last tap of a phase
    dy = jnp.pad(dy, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    rows, columns = h + reach, w + reach
    phases = []
    for p in range(stride):
        for q in range(stride):
            phase = jnp.zeros((b, rows, columns, c), dy.dtype)
            for i in range(p, k, stride):
                for j in range(q, k, stride):
                    top, left = reach - i // stride, reach - j // stride
                    phase += dy[:, top : top + rows, left : left + columns] * kernel[i, j]
            phases.append(phase)
    dx = jnp.stack(phases).reshape(stride, stride, b, rows, columns, c)
    dx = dx.transpose(2, 3, 0, 4, 1, 5).reshape(b, stride * rows, stride * columns, c)
    (top, _), (left, _) = padding
    # Rows and columns that no window reaches.
    below, right = max(top + size[0] - dx.shape[1], 0), max(left + size[1] - dx.shape[2], 0)
    dx = jnp.pad(dx, ((0, 0), (0, below), (0, right), (0, 0)))
    return dx[:, top : top + size[0], left : left + size[1]]


def _kernel_gradient(x: Array, dy: Array, k: int, stride: int) -> Array:
    """(B, H, W, C) and (B, h, w, C) -> (k, k, C).

    A loop over the images sums the rows of each tap's products, and a last sum the columns. One
    sum per tap over all of them, as autodiff has it, is several times slower in XLA.
    """
    h, w, channels = dy.shape[1:]
    x = jnp.pad(x, ((0, 0), *same_padding(x.shape[1:3], k, stride), (0, 0)))
    bottom, right = (h - 1) * stride + 1, (w - 1) * stride + 1

    def add_image(total: Array, image: tuple[Array, Array]) -> tuple[Array, None]:
        x, dy = (a.astype(jnp.float32) for a in image)
        taps = [
            (x[i : i + bottom : stride, j : j + right : stride] * dy).sum(axis=0)
            for i in range(k)
            for j in range(k)
        ]
        return total + jnp.stack(taps), None

    zeros = jnp.zeros((k * k, w, channels), jnp.float32)
    total, _ = lax.scan(add_image, zeros, (x, dy))
    return total.sum(axis=1).reshape(k, k, channels).astype(dy.dtype)


_shifted.defvjp(
    lambda x, kernel, stride: (_sum_of_taps(x, kernel, stride), (x, kernel)),
    lambda stride, residuals, dy: (
        _input_gradient(dy, residuals[1], stride, residuals[0].shape[1:3]),
        _kernel_gradient(residuals[0], dy, len(residuals[1]), stride),
    ),
)
