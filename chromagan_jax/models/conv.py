"""Stride-1 convolutions in the formulation that the back end computes fastest.

XLA's CPU back end has a fast path for padded convolutions only, and none for kernel gradients. On
two cores, forward and kernel gradient in milliseconds (batch, px, kernel, channels -> features):

| | VALID | padded, cropped | batched dots | dots |
|---|---|---|---|---|
| 4, 106, 3x3, 128 -> 128 | 149 + 419 | 63 + 333 | 135 | 165 |
| 4, 120, 5x5, 32 -> 32 | 56 + 126 | 11 + 53 | 73 | 87 |
| 4, 30, 3x3, 512 -> 512 | 185 + 332 | 61 + 258 | 115 | 82 |
| 8, 66, 2x2, 64 -> 128 | 30 + 84 | 18 + 72 | 30 | 40 |
| 8, 66, 2x2, 128 -> 8 | 36 + 12 | 4 + 13 | 25 | 35 |
| 8, 19, 4x4, 128 -> 256 | 11 + 13 | 12 + 18 | 20 | 17 |
| 8, 17, 2x2, 512 -> 128 | 6 + 9 | 5 + 9 | 16 | 8 |

Elsewhere a convolution is `lax.conv_general_dilated` and nothing else.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

Array = jax.Array
Padding = tuple[int, int]  # before and after, of both sides of the picture

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')
_SMALL = 18 * 18  # pixels up to which kernels weigh more than pictures
_NARROW = 64  # channels below which matrix products do not pay


def conv(x: Array, kernel: Array, padding: Padding = (0, 0)) -> Array:
    """(B, H, W, C) with (k, k, C, F), stride 1 -> (B, H + p - k + 1, W + p - k + 1, F).

    p is the sum of `padding`. Differentiable as often as asked for, in reverse mode.
    """
    if jax.default_backend() != 'cpu':
        return _lax(x, kernel, padding)
    return _cpu(x, kernel, padding)


def _lax(x: Array, kernel: Array, padding: Padding) -> Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), (padding, padding), dimension_numbers=_DIMENSIONS
    )


def _padded(x: Array, kernel: Array, padding: Padding) -> Array:
    """With as much padding as keeps the size, of which the result is cropped."""
    k = kernel.shape[0]
    more = max((k - 1) // 2 - padding[0], 0), max(k // 2 - padding[1], 0)
    y = _lax(x, kernel, (padding[0] + more[0], padding[1] + more[1]))
    return y[:, more[0] : y.shape[1] - more[1], more[0] : y.shape[2] - more[1]]


def _patches(x: Array, k: int, padding: Padding) -> Array:
    """(B, H, W, C) -> (B, h, w, k k C): what each output pixel sees, as a row of a matrix."""
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    h, w = x.shape[1] - k + 1, x.shape[2] - k + 1
    shifted = [x[:, i : i + h, j : j + w] for i in range(k) for j in range(k)]
    return jnp.concatenate(shifted, axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _cpu(x: Array, kernel: Array, padding: Padding) -> Array:
    k, _, _, features = kernel.shape
    if x.shape[1] * x.shape[2] > 100:
        return _padded(x, kernel, padding)
    return _patches(x, k, padding) @ kernel.reshape(-1, features)


def _forward(x: Array, kernel: Array, padding: Padding) -> tuple[Array, tuple[Array, Array]]:
    return _cpu(x, kernel, padding), (x, kernel)


def _backward(padding: Padding, kept: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = kept
    return _input_gradient(dy, kernel, padding), _kernel_gradient(x, dy, kernel, padding)


_cpu.defvjp(_forward, _backward)


def _input_gradient(dy: Array, kernel: Array, padding: Padding) -> Array:
    k, _, channels, features = kernel.shape
    _, h, w, _ = dy.shape
    if h * w > _SMALL or features < _NARROW:
        flipped = kernel[::-1, ::-1].swapaxes(2, 3)
        return _cpu(dy, flipped, (k - 1 - padding[0], k - 1 - padding[1]))
    # The product first, then shift and add. Of the kernel and the gradient, the smaller one is
    # turned over for the product: in the innermost levels that is not the kernel.
    kernel_first = dy.shape[0] * h * w < features
    if kernel_first:
        taps = jnp.einsum('ijcf,bhwf->ijcbhw', kernel, dy)
        taps = taps.transpose(3, 4, 5, 0, 1, 2)
    else:
        taps = jnp.einsum('bhwf,ijcf->bhwijc', dy, kernel)
    dx = jnp.zeros((dy.shape[0], h + k - 1, w + k - 1, channels))
    for i in range(k):
        for j in range(k):
            dx = dx.at[:, i : i + h, j : j + w].add(taps[:, :, :, i, j].astype(dx.dtype))
    dx = dx[:, padding[0] : h + k - 1 - padding[1], padding[0] : w + k - 1 - padding[1]]
    return dx.astype(dy.dtype)


def _kernel_gradient(x: Array, dy: Array, kernel: Array, padding: Padding) -> Array:
    k, _, channels, features = kernel.shape
    _, h, w, _ = dy.shape
    wide = min(channels, features) >= _NARROW
    if k * k * channels <= 128 or (h * w <= _SMALL and wide):
        factors = _patches(x, k, padding), dy
        # One of product and patches has to be turned over: the smaller one.
        over = x.shape[0] * h * w > features
        product = jnp.einsum('bhwr,bhwc->rc', *factors[:: -1 if over else 1])
        return (product.T if over else product).reshape(kernel.shape).astype(kernel.dtype)
    # Padding is an operation of its own here: the kernel gradient of a convolution that enlarges
    # its input takes fifty times as long (256 -> 128, 3x3, 104 px, batch 4: 28 s instead of 0.5).
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    if k > 3 or not wide:
        return jax.vjp(lambda kernel: _padded(x, kernel, (0, 0)), kernel)[1](dy)[0]
    # One contraction over the pixels for each tap of the kernel; for large pictures one for each
    # picture too. Again the transposed product.
    dots = 'bhwf,bhwc->bfc' if h * w > 900 else 'bhwf,bhwc->fc'

    def tap(i: int, j: int) -> Array:
        shifted = x[:, i : i + h, j : j + w]
        product = jnp.einsum(dots, dy, shifted)
        return (product.sum(0) if product.ndim == 3 else product).T

    taps = jnp.stack([tap(i, j) for i in range(k) for j in range(k)])
    return taps.reshape(kernel.shape).astype(kernel.dtype)


def _general(
    x: Array, kernel: Array, strides: tuple[int, int], padding: Any, **kwargs: Any
) -> Array:
    """`lax.conv_general_dilated` as `nn.Conv` calls it; square, undilated and ungrouped."""
    k = kernel.shape[0]
    if tuple(strides) != (1, 1):
        return lax.conv_general_dilated(x, kernel, strides, padding, **kwargs)
    if padding == 'SAME':
        padding = [((k - 1) // 2, k // 2)]
    return conv(x, kernel, (0, 0) if padding == 'VALID' else tuple(padding[0]))


Conv = functools.partial(nn.Conv, conv_general_dilated=_general)
