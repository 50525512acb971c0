"""Colours at a lower resolution than the lightness, and back."""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
_EPSILON = 0.01  # of the variance of a condition, whose range is [-1, 1]


def shrink(x: Array, stride: int) -> Array:
    """(B, H, W, C) -> (B, H / stride, W / stride, C), the means of squares of pixels."""
    b, h, w, c = x.shape
    return x.reshape(b, h // stride, stride, w // stride, stride, c).mean((2, 4))


def _separable(rows: np.ndarray, x: Array, columns: np.ndarray) -> Array:
    return jnp.einsum('iy,byxc,jx->bijc', rows, x, columns)


def _box(size: int, radius: int) -> np.ndarray:
    """(size, size): each row the mean over what lies within `radius`, inside the picture."""
    i = np.arange(size)
    near = np.abs(i[:, None] - i) <= radius
    return (near / near.sum(1, keepdims=True)).astype(np.float32)


def _linear(size: int, stride: int) -> np.ndarray:
    """(size * stride, size): linear interpolation between pixels' centres, constant outside."""
    at = np.clip((np.arange(size * stride) + 0.5) / stride - 0.5, 0, size - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(size))).astype(np.float32)


def upsample(x: Array, condition: Array, stride: int, radius: int) -> Array:
    """(B, h, w, C) with (B, h stride, w stride, 1) -> (B, h stride, w stride, C).

    He et al. 2013.
    """
    if stride == 1 and not radius:
        return x
    h, w = x.shape[1:3]
    rows, columns = _linear(h, stride), _linear(w, stride)
    if not radius:
        return _separable(rows, x, columns)
    condition = condition.astype(jnp.float32)
    guide = shrink(condition, stride)
    mean = lambda y: _separable(_box(h, radius), y, _box(w, radius))
    guide_mean, x_mean = mean(guide), mean(x)
    variance = mean(jnp.square(guide)) - jnp.square(guide_mean)
    slope = (mean(guide * x) - guide_mean * x_mean) / (jnp.maximum(variance, 0) + _EPSILON)
    offset = x_mean - slope * guide_mean
    slope, offset = (_separable(rows, mean(y), columns) for y in (slope, offset))
    return slope * condition + offset
