"""Stride-1 convolutions in the formulation that the back end computes fastest.

XLA's CPU back end has a fast path for padded convolutions only, and none for kernel gradients. On a
CPU this module therefore chooses by shape between XLA, matrix products over patches, and Winograd's
tiles, which halve the work where pixels and channels are many. `python -m benchmarks.convolutions`
measures the choices. Other back ends use `lax.conv_general_dilated`, and on a GPU another kernel
gradient for convolutions that enlarge their input.

The convolution and its two gradients are bilinear, and the gradients of each are the other two. So
three functions with one rule each are differentiable to any order.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from chromagan_jax.models.ops import backend, winograd
from chromagan_jax.models.ops.products import product

Array = jax.Array
Padding = tuple[int, int]  # before and after, of both rows and columns

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')
_SMALL = 18 * 18  # pixels up to which kernels are larger than images
_NARROW = 64  # channels below which matrix products are slower
_NARROW_INPUT = 16  # the same for input channels of the forward convolution
_MANY = 1000  # pixels of the batch from which transforming a kernel is faster
_FEW = 128  # taps times channels up to which a kernel gradient is a product over patches
_TILES = {2: 3, 3: 2, 4: 3}  # kernel -> pixels a side of Winograd's tiles


def conv(x: Array, kernel: Array, padding: Padding = (0, 0)) -> Array:
    """(B, H, W, C) with (k, k, C, F), stride 1 -> (B, H + p - k + 1, W + p - k + 1, F).

    p is the sum of `padding`. Reverse-mode differentiable to any order.
    """
    if backend.is_cpu():
        return (_padded if backend.is_plain() else _cpu)(x, kernel, padding)
    k = kernel.shape[0]
    plain = backend.forms().kernel_gradient == 'plain'
    if backend.is_gpu() and not plain and max(padding) < k <= sum(padding):
        return _enlarging(x, kernel, padding)
    return _lax(x, kernel, padding)


def _lax(x: Array, kernel: Array, padding: Padding) -> Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), (padding, padding), dimension_numbers=_DIMENSIONS
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _enlarging(x: Array, kernel: Array, padding: Padding) -> Array:
    """`_lax` with another kernel gradient, for a convolution that enlarges its input.

    XLA's GPU back end computes the plain one as a forward convolution whose kernel is as large as
    the image, from transposed copies of both arrays. 4x4 transposed convolutions are of this kind.
    """
    return _lax(x, kernel, padding)


def _enlarging_gradients(
    padding: Padding, residuals: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    x, kernel = residuals
    (dx,) = jax.linear_transpose(lambda x: _lax(x, kernel, padding), x)(dy)
    k, _, channels, features = kernel.shape
    few = k * k * min(channels, features) <= _FEW
    if few and backend.forms().kernel_gradient == 'product':
        return dx, _narrow_kernel_gradient(x, dy, k, padding)
    # The kernel gradient of the convolution of dy by x, which cuDNN has: the kernel rotated by 180
    # degrees, with exchanged channel axes.
    other = k - 1 - padding[0], k - 1 - padding[1]
    shape = jax.ShapeDtypeStruct((k, k, features, channels), kernel.dtype)
    (exchanged,) = jax.linear_transpose(lambda kernel: _lax(dy, kernel, other), shape)(x)
    return dx, exchanged[::-1, ::-1].swapaxes(2, 3)


_enlarging.defvjp(
    lambda x, kernel, padding: (_lax(x, kernel, padding), (x, kernel)), _enlarging_gradients
)


def _padded(x: Array, kernel: Array, padding: Padding) -> Array:
    """Pads to at least the input size, which XLA computes fast, and crops the result."""
    k = kernel.shape[0]
    more = max((k - 1) // 2 - padding[0], 0), max(k // 2 - padding[1], 0)
    y = _lax(x, kernel, (padding[0] + more[0], padding[1] + more[1]))
    return y[:, more[0] : y.shape[1] - more[1], more[0] : y.shape[2] - more[1]]


def _patches(x: Array, k: int, padding: Padding) -> Array:
    """im2col: (B, H, W, C) -> (B, h, w, k k C), the window of each output pixel."""
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    h, w = x.shape[1] - k + 1, x.shape[2] - k + 1
    shifted = [x[:, i : i + h, j : j + w] for i in range(k) for j in range(k)]
    return jnp.concatenate(shifted, axis=-1)


def _product_first(x: Array, kernel: Array, padding: Padding) -> Array:
    """Multiplies by all taps, then shifts and adds; fast for few features."""
    k, _, channels, features = kernel.shape
    products = x @ kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
    products = jnp.pad(products, ((0, 0), padding, padding, (0, 0)))
    h, w = products.shape[1] - k + 1, products.shape[2] - k + 1
    products = products.reshape(*products.shape[:3], k, k, features)
    taps = [(i, j) for i in range(k) for j in range(k)]
    return sum(
        (products[:, i : i + h, j : j + w, i, j] for i, j in taps),
        start=jnp.zeros((), x.dtype),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _cpu(x: Array, kernel: Array, padding: Padding) -> Array:
    """(B, H, W, C) with (k, k, C, F) -> (B, h, w, F)."""
    k, _, _, features = kernel.shape
    if tile := _tile(x.shape[:3], kernel.shape, padding, x.dtype, _NARROW_INPUT):
        return winograd.convolve(x, kernel, padding, tile)
    if k == 3 and k * k * features <= x.shape[3]:
        return _product_first(x, kernel, padding)
    if x.shape[1] * x.shape[2] > 100:
        return _padded(x, kernel, padding)
    return product('bhwr,rf->bhwf', _patches(x, k, padding), kernel.reshape(-1, features))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _input_gradient(dy: Array, kernel: Array, padding: Padding) -> Array:
    """(B, h, w, F) with (k, k, C, F) -> (B, H, W, C)."""
    k, _, channels, features = kernel.shape
    b, h, w, _ = dy.shape
    other = k - 1 - padding[0], k - 1 - padding[1]
    size = h + sum(other) - k + 1, w + sum(other) - k + 1
    if tile := _tile((b, *size), kernel.shape, padding, dy.dtype):
        return winograd.convolve(dy, kernel, other, tile, transposed=True)
    if h * w > _SMALL or features < _NARROW:
        return _cpu(dy, kernel[::-1, ::-1].swapaxes(2, 3), other)
    # Multiply by all taps, then shift and add. The einsum transposes its smaller factor, which at
    # low resolution is the gradient.
    kernel_first = b * h * w < features
    if kernel_first:
        taps = product('ijcf,bhwf->ijcbhw', kernel, dy)
        taps = taps.transpose(3, 4, 5, 0, 1, 2)
    else:
        taps = product('bhwf,ijcf->bhwijc', dy, kernel)
    dx = jnp.zeros((b, h + k - 1, w + k - 1, channels))
    for i in range(k):
        for j in range(k):
            dx = dx.at[:, i : i + h, j : j + w].add(taps[:, :, :, i, j].astype(dx.dtype))
    dx = dx[:, padding[0] : h + k - 1 - padding[1], padding[0] : w + k - 1 - padding[1]]
    return dx.astype(dy.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _kernel_gradient(x: Array, dy: Array, k: int, padding: Padding) -> Array:
    """(B, H, W, C) and (B, h, w, F) -> (k, k, C, F)."""
    channels, features = x.shape[3], dy.shape[3]
    b, h, w, _ = dy.shape
    shape = k, k, channels, features
    if tile := _tile(x.shape[:3], shape, padding, x.dtype):
        return winograd.kernel_gradient(x, dy, k, padding, tile)
    if k * k * min(channels, features) <= _FEW:
        return _narrow_kernel_gradient(x, dy, k, padding)
    if h * w <= _SMALL and min(channels, features) >= _NARROW:
        factors = _patches(x, k, padding), dy
        # Either the product or the patches are transposed: the smaller of them.
        over = b * h * w > features
        gradient = jnp.einsum('bhwr,bhwc->rc', *factors[:: -1 if over else 1])
        return (gradient.T if over else gradient).reshape(shape)
    # Padding is a separate operation: XLA's kernel gradient of a convolution that enlarges its
    # input is many times slower.
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    kernel = jnp.zeros(shape, x.dtype)
    return jax.vjp(lambda kernel: _padded(x, kernel, (0, 0)), kernel)[1](dy)[0]


def _narrow_kernel_gradient(x: Array, dy: Array, k: int, padding: Padding) -> Array:
    """Takes patches of the argument with fewer channels, which are smaller."""
    channels, features = x.shape[3], dy.shape[3]
    if channels <= features:
        return _contracted(_patches(x, k, padding), dy).reshape(k, k, channels, features)
    # Windows of dy at the pixels of x give the kernel rotated by 180 degrees.
    seen = _patches(dy, k, (k - 1 - padding[0], k - 1 - padding[1]))
    rotated = _contracted(x, seen).reshape(channels, k, k, features)
    return rotated[:, ::-1, ::-1].transpose(1, 2, 0, 3)


def _contracted(x: Array, y: Array) -> Array:
    """(B, H, W, R) and (B, H, W, C) -> (R, C); transposes the narrower factor."""
    x, y = x.reshape(-1, x.shape[3]), y.reshape(-1, y.shape[3])
    return x.T @ y if x.shape[1] <= y.shape[1] else (y.T @ x).T


def _tile(
    x: tuple[int, ...],
    kernel: tuple[int, ...],
    padding: Padding,
    dtype: Any,
    least_channels: int = _NARROW,
) -> int:
    """Side of Winograd's tiles, px, for shapes where they are faster; else 0."""
    k, _, channels, features = kernel
    more = sum(padding) - k + 1
    pixels = x[0] * (x[1] + more) * (x[2] + more)
    wide = channels >= least_channels and features >= _NARROW
    pays = pixels >= _MANY and wide and dtype == jnp.float32
    return _TILES.get(k, 0) if pays else 0


_cpu.defvjp(
    lambda x, kernel, padding: (_cpu(x, kernel, padding), (x, kernel)),
    lambda padding, residuals, dy: (
        _input_gradient(dy, residuals[1], padding),
        _kernel_gradient(residuals[0], dy, residuals[1].shape[0], padding),
    ),
)
_input_gradient.defvjp(
    lambda dy, kernel, padding: (_input_gradient(dy, kernel, padding), (dy, kernel)),
    lambda padding, residuals, dx: (
        _cpu(dx, residuals[1], padding),
        _kernel_gradient(dx, residuals[0], residuals[1].shape[0], padding),
    ),
)
_kernel_gradient.defvjp(
    lambda x, dy, k, padding: (_kernel_gradient(x, dy, k, padding), (x, dy)),
    lambda k, padding, residuals, kernel: (
        _input_gradient(residuals[1], kernel, padding),
        _cpu(residuals[0], kernel, padding),
    ),
)


def _general(
    x: Array, kernel: Array, strides: tuple[int, int], padding: Any, **kwargs: Any
) -> Array:
    """`lax.conv_general_dilated` as `nn.Conv` calls it: square kernels, no dilation, no groups."""
    k = kernel.shape[0]
    if tuple(strides) != (1, 1):
        return lax.conv_general_dilated(x, kernel, strides, padding, **kwargs)
    if padding == 'SAME':
        padding = [((k - 1) // 2, k // 2)]
    return conv(x, kernel, (0, 0) if padding == 'VALID' else tuple(padding[0]))


Conv = functools.partial(nn.Conv, conv_general_dilated=_general)
