"""Colour spaces: RGB <-> (condition, target), the gray input and the colour to predict.

| space | condition (..., 1)                               | target                     |
|-------|--------------------------------------------------|----------------------------|
| lab   | L*/50 - 1, in [-1, 1]                            | a*, b* over 110 (..., 2)   |
| rgb   | sRGB value of the gray with the same L*, [0, 1]  | R, G, B in [0, 1] (..., 3) |

RGB is sRGB (IEC 61966-2-1). Lab is CIE 1976 under D65 for the 2 degree observer. The matrix, the
white point and the rounded constants are those of scikit-image, so that results agree. Functions of
arrays take NumPy or JAX arrays (traced ones too) and return the same kind.
"""

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import TypeVar

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from chromagan_jax.errors import UserError

ArrayT = TypeVar('ArrayT', np.ndarray, jax.Array)

SPACES = ('lab', 'rgb')
TARGET_CHANNELS = {'lab': 2, 'rgb': 3}

AB_SCALE = 110.0  # a*, b* of sRGB lie in [-107.9, 98.2], so |target| < 1

_WHITE = np.array([0.95047, 1.0, 1.08883])
_RGB_TO_XYZ = np.array(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
)
_TO_XYZ = _RGB_TO_XYZ / _WHITE[:, None]  # to XYZ relative to the white point
FROM_XYZ = np.linalg.inv(_TO_XYZ)
_F_KNEE = 0.008856  # linear below, cube root above
F_SLOPE = 7.787
_F_ZERO = 16 / 116
F_INVERSE_KNEE = 0.2068966
_SRGB_KNEE = 0.04045
LINEAR_KNEE = 0.0031308


def _namespace(x: np.ndarray | jax.Array) -> ModuleType:
    return jnp if isinstance(x, jax.Array) else np


def _transform(matrix: np.ndarray, x: ArrayT) -> ArrayT:
    """`matrix @ x` over the last axis of length 3.

    Products are written out because a float32 matmul runs at TF32 or bfloat16 precision on
    accelerators. The weights are Python floats because those do not change the type of `x`.
    """
    rows: Sequence[Sequence[float]] = matrix.tolist()
    return _namespace(x).stack(
        [a * x[..., 0] + b * x[..., 1] + c * x[..., 2] for a, b, c in rows], axis=-1
    )


# `where` evaluates both branches, and the gradient of a power at 0 is infinite or NaN. So `maximum`
# clamps the input of each power below to its side of the knee.


def _power(x: ArrayT, exponent: float) -> ArrayT:
    """`x**exponent` for x > 0. XLA's CPU back end computes exp and log faster than a power."""
    if isinstance(x, jax.Array):
        return jnp.exp(exponent * jnp.log(x))
    return x**exponent


def _srgb_to_linear(rgb: ArrayT) -> ArrayT:
    xp = _namespace(rgb)
    power = _power((xp.maximum(rgb, _SRGB_KNEE) + 0.055) / 1.055, 2.4)
    return xp.where(rgb > _SRGB_KNEE, power, rgb / 12.92)


def _linear_to_srgb(linear: ArrayT) -> ArrayT:
    xp = _namespace(linear)
    power = 1.055 * _power(xp.maximum(linear, LINEAR_KNEE), 1 / 2.4) - 0.055
    return xp.where(linear > LINEAR_KNEE, power, 12.92 * linear)


def _f(t: ArrayT) -> ArrayT:
    xp = _namespace(t)
    return xp.where(t > _F_KNEE, _power(xp.maximum(t, _F_KNEE), 1 / 3), F_SLOPE * t + _F_ZERO)


def _f_inverse(f: ArrayT) -> ArrayT:
    return _namespace(f).where(f > F_INVERSE_KNEE, f**3, (f - _F_ZERO) / F_SLOPE)


def rgb_to_lab(rgb: ArrayT) -> ArrayT:
    """(..., 3) sRGB in [0, 1] to (..., 3) L* in [0, 100], a*, b*, same float type."""
    f = _f(_transform(_TO_XYZ, _srgb_to_linear(rgb)))
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return _namespace(rgb).stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _lab_to_linear(lab: ArrayT) -> ArrayT:
    """(..., 3) L*, a*, b* to linear RGB, not clipped."""
    xp = _namespace(lab)
    y = (lab[..., 0] + 16) / 116
    x = y + lab[..., 1] / 500
    z = xp.maximum(y - lab[..., 2] / 200, 0)  # as scikit-image: no light has a negative Z
    return _transform(FROM_XYZ, _f_inverse(xp.stack([x, y, z], axis=-1)))


def lab_to_rgb(lab: ArrayT) -> ArrayT:
    """(..., 3) L* in [0, 100], a*, b* to (..., 3) sRGB clipped to [0, 1], same float type."""
    return _namespace(lab).clip(_linear_to_srgb(_lab_to_linear(lab)), 0, 1)


def lightness_to_gray(lightness: ArrayT) -> ArrayT:
    """L* in [0, 100] to the sRGB value in [0, 1] of the gray with that L*; any shape."""
    linear = _f_inverse((lightness + 16) / 116)
    return _namespace(lightness).clip(_linear_to_srgb(linear), 0, 1)


def gray_to_lightness(gray: ArrayT) -> ArrayT:
    """The sRGB value in [0, 1] of a gray to its L* in [0, 100]; any shape."""
    return 116 * _f(_srgb_to_linear(gray)) - 16


_LINEAR_OF_BYTE = _srgb_to_linear(np.arange(256)[None] / 255).astype(np.float32)
_TO_XYZ32 = _TO_XYZ.astype(np.float32)
# (f(X), f(Y), f(Z), 1) to L*/50 - 1, a*/110 and b*/110.
_ENCODED_OF_F = np.array(
    [
        [0, 116 / 50, 0, -16 / 50 - 1],
        [500 / AB_SCALE, -500 / AB_SCALE, 0, 0],
        [0, 200 / AB_SCALE, -200 / AB_SCALE, 0],
    ],
    np.float32,
)


def encode(
    rgb: np.ndarray, space: str, out: tuple[np.ndarray, np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Converts images to condition and target, for the input pipeline.

    L*, a* and b* lie within 3e-4 of scikit-image's `rgb2lab`. The gray value of `rgb` lies within
    1e-6 of the gray with the same L*.

    Args:
      rgb: (H, W, 3) or (B, H, W, 3), uint8.
      space: 'lab' or 'rgb'.
      out: C-contiguous arrays for condition and target, of the returned shapes; new ones if None.

    Returns:
      `(condition, target)`, float32, (..., H, W, 1) and (..., H, W, 2 or 3), in the ranges of the
      table at the top of this module.

    Raises:
      UserError: if `space` is neither.
    """
    if space not in SPACES:
        raise UserError(f'color_space is {space!r}: choose one of {", ".join(SPACES)}.')
    if out is None:
        shapes = [(*rgb.shape[:-1], channels) for channels in (1, TARGET_CHANNELS[space])]
        out = np.empty(shapes[0], np.float32), np.empty(shapes[1], np.float32)
    # OpenCV has no batch axis: a batch becomes one tall image.
    image = rgb.reshape(-1, *rgb.shape[-2:])
    condition, target = out[0].reshape(image.shape[:2]), out[1].reshape(*image.shape[:2], -1)
    linear: np.ndarray = cv2.LUT(image, _LINEAR_OF_BYTE)
    if space == 'rgb':
        gray = cv2.transform(linear, _TO_XYZ32[1:2])
        np.clip(_linear_to_srgb(gray), 0, 1, out=condition)
        np.multiply(image, np.float32(1 / 255), out=target)
    else:
        # `_f` in place: above the knee f - root is 0, below it the root is constant.
        f: np.ndarray = cv2.transform(linear, _TO_XYZ32)
        root = np.maximum(f, np.float32(_F_KNEE), out=linear)  # cv2.max reads 1 x 1 as a scalar
        f -= root
        cv2.scaleAdd(f, F_SLOPE, np.cbrt(root, out=root), dst=f)
        # Two calls: OpenCV is fast from 3 channels to 3, NumPy is slow at copying 2 of 3.
        cv2.transform(f, _ENCODED_OF_F, dst=root)
        cv2.mixChannels([root], [condition, target], [0, 0, 1, 1, 2, 2])
    return out


@functools.cache
def _linear_of_uint16() -> np.ndarray:
    return _srgb_to_linear(np.arange(65536) / 65535).astype(np.float32)


def lightness(rgb: np.ndarray) -> np.ndarray:
    """(H, W) float32 L* of (H, W, 3) or (H, W, 4) sRGB, uint8 or uint16, as exact as `encode`."""
    eight = rgb.dtype == np.uint8
    linear = cv2.LUT(rgb, _LINEAR_OF_BYTE) if eight else _linear_of_uint16()[rgb]
    weights = np.zeros((1, rgb.shape[2]), np.float32)
    weights[:, :3] = _TO_XYZ32[1]
    y = cv2.transform(linear, weights).reshape(rgb.shape[:2])
    root = np.maximum(y, np.float32(_F_KNEE))
    y -= root  # as in `encode`
    y = y * np.float32(F_SLOPE) + np.cbrt(root, out=root)
    return 116 * y - 16


def _is_lab(target: np.ndarray | jax.Array) -> bool:
    channels = target.shape[-1]
    if channels not in TARGET_CHANNELS.values():
        raise ValueError(f'a target has 2 channels (lab) or 3 (rgb), not {channels}')
    return channels == TARGET_CHANNELS['lab']


def to_lab(condition: ArrayT, target: ArrayT) -> ArrayT:
    """Combines a condition and a target to an image in Lab.

    Args:
      condition: (..., 1); `rgb` does not use it.
      target: (..., 2) in `lab`, which may leave the gamut, or (..., 3) in `rgb`, clipped to [0, 1].

    Returns:
      (..., 3) L*, a*, b*, float32.

    Raises:
      ValueError: if the target has another number of channels.
    """
    target = target.astype(np.float32)
    xp = _namespace(target)
    if not _is_lab(target):
        return rgb_to_lab(xp.clip(target, 0, 1))
    lightness = (condition.astype(np.float32) + 1) * 50
    return xp.concatenate([lightness, target * AB_SCALE], axis=-1)


def to_rgb(condition: ArrayT, target: ArrayT) -> ArrayT:
    """Combines a condition and a target to an image in sRGB: the inverse of `encode`.

    Args:
      condition: (..., 1); `rgb` does not use it.
      target: (..., 2) in `lab` or (..., 3) in `rgb`.

    Returns:
      (..., 3) sRGB, clipped to [0, 1], float32.

    Raises:
      ValueError: if the target has another number of channels.
    """
    if _is_lab(target):
        return lab_to_rgb(to_lab(condition, target))
    return _namespace(target).clip(target.astype(np.float32), 0, 1)


def gray_of_condition(condition: jax.Array, channels: int) -> jax.Array:
    """The sRGB value in [0, 1] of a condition; (..., 1) float32.

    Args:
      condition: (..., 1).
      channels: of the target, 2 for `lab` or 3 for `rgb`.
    """
    gray = jnp.asarray(condition, jnp.float32)
    return lightness_to_gray((gray + 1) * 50) if channels == TARGET_CHANNELS['lab'] else gray


def gray_target(condition: ArrayT, channels: int) -> ArrayT:
    """The target of the gray image: no chroma in `lab`, the condition in each channel in `rgb`.

    Args:
      condition: (..., 1).
      channels: of the target, 2 for `lab` or 3 for `rgb`.

    Returns:
      (..., channels), with the type of the condition.
    """
    xp = _namespace(condition)
    value = xp.zeros_like(condition) if channels == TARGET_CHANNELS['lab'] else condition
    return xp.repeat(value, channels, axis=-1)
