"""Colour hints: a few known colours as further inputs of a generator.

Source: Zhang et al. 2017, https://arxiv.org/abs/1705.02999. A condition with hints is
(B, H, W, 4): lightness, the hinted target a and b, and a mask that is 1 at hinted pixels. The other
pixels of a, b and mask are 0.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from chromagan_jax.models.ops.conv import Conv

Array = jax.Array

CHANNELS = 3  # a, b and mask
_HIDDEN = 32  # features


def split(condition: Array) -> tuple[Array, Array]:
    """(B, H, W, 1 or 4) -> the lightness (B, H, W, 1) and the hints (B, H, W, 3), 0 without."""
    lightness, hints = condition[..., :1], condition[..., 1:]
    if not hints.shape[-1]:
        hints = jnp.zeros((*lightness.shape[:3], CHANNELS), lightness.dtype)
    return lightness, hints


def pool(hints: Array, stride: int) -> Array:
    """Means of the hinted colours in blocks of `stride` x `stride` px, and a mask of blocks.

    (B, H, W, 3) -> (B, H / stride, W / stride, 3). The sides must be multiples of `stride`.
    """
    b, h, w, c = hints.shape
    sums = hints.reshape(b, h // stride, stride, w // stride, stride, c).sum(axis=(2, 4))
    return sums / jnp.maximum(sums[..., 2:], 1)


class AddHints(nn.Module):
    """Adds a function of pooled hints (B, h, w, 3) to a map (B, h, w, C).

    The function is 0 at initialisation, and without hints: the map then stays as it is.
    """

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, hints: Array) -> Array:
        types = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
        hints = hints.astype(self.dtype)
        hidden = nn.relu(Conv(_HIDDEN, (3, 3), padding=1, use_bias=False, **types)(hints))
        zeros = nn.initializers.zeros
        return x + nn.Dense(x.shape[-1], use_bias=False, kernel_init=zeros, **types)(hidden)
