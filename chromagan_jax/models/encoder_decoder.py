"""Encoder-decoder of stride-1 convolutions without padding, with skips: gray to RGB."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from chromagan_jax.errors import UserError
from chromagan_jax.models import layers
from chromagan_jax.models.ops.conv import Conv

Array = jax.Array

_glorot = nn.initializers.glorot_uniform()


class Block(nn.Module):
    """Stride-1 convolutions (kernel, features), each with bias and activation.

    (B, H, W, C) -> (B, H', W', features of the last). A convolution leaves a side kernel - 1
    px shorter, a `transposed` one gives them back.
    """

    convolutions: tuple[tuple[int, int], ...]
    transposed: bool
    slope: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        types = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
        for i, (kernel, features) in enumerate(self.convolutions):
            x = _conv(kernel, features, self.transposed, **types, name=f'conv_{i}')(x)
            x = nn.leaky_relu(x, self.slope) if self.slope else nn.relu(x)
        return x


def _conv(kernel: int, features: int, transposed: bool, **kwargs: Any) -> nn.Conv:
    """(B, H, W, C) -> (B, H - kernel + 1, W - kernel + 1, features); `transposed`, + kernel - 1.

    A transposed convolution of stride 1 is a convolution with kernel - 1 px of padding, and its
    kernel is stored as that one's, (k, k, in, out). Elsewhere it runs the other way: one of Keras,
    (k, k, out, in), is flipped along its first two axes and its last two are exchanged; one of
    PyTorch, (in, out, k, k), is flipped along its last two, which then become the first.
    """
    padding = kernel - 1 if transposed else 0
    return Conv(features, (kernel, kernel), padding=padding, kernel_init=_glorot, **kwargs)


class EncoderDecoder(nn.Module):
    """(B, H, W, 1) -> (B, H, W, channels), float32; no norm and no strides.

    Three blocks of three convolutions with LeakyReLU (5x5, 3x3, 3x3 each; width, 2, 2; 2, 4, 4; 4,
    8, 8 times width features), which leave a picture 24 px smaller; a 3x3 tanh bottleneck; three
    blocks of transposed convolutions with ReLU back to full size, each of which sees the output of
    the encoder's block of its size beside what comes from below. The last activation is ReLU for
    RGB and tanh for ab / 110. Kernels start glorot-uniform and biases at 0, Keras's defaults.

    Raises:
        UserError: if a side of the picture is not longer than 24 px, or a field is unknown.
    """

    channels: int = 3  # of the target: 2 in Lab, 3 in RGB
    width: int = 16  # features of the first convolution
    slope: float = 0.3  # of the encoder's LeakyReLU, below 0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, condition: Array, train: bool) -> Array:
        layers.check_range('generator.width', self.width, self.width >= 1, '1 or more')
        layers.check_range('generator.slope', self.slope, 0 <= self.slope < 1, '0 <= x < 1')
        w, types = self.width, {'dtype': self.dtype, 'param_dtype': self.param_dtype}
        encoder = (
            ((5, w), (3, 2 * w), (3, 2 * w)),
            ((5, 2 * w), (3, 4 * w), (3, 4 * w)),
            ((5, 4 * w), (3, 8 * w), (3, 8 * w)),
        )
        decoder = (
            ((3, 2 * w), (3, 2 * w)),  # and `out`
            ((3, 4 * w), (3, 4 * w), (5, 2 * w)),
            ((3, 8 * w), (3, 8 * w), (5, 4 * w)),
        )
        lost = sum(kernel - 1 for block in encoder for kernel, _ in block)
        if min(condition.shape[1:3]) <= lost:
            raise UserError(
                f'The encoder-decoder takes pictures of more than {lost} px a side, not '
                f'{condition.shape[1]} x {condition.shape[2]}: raise data.size.'
            )
        block = nn.remat(Block) if self.remat else Block

        x, skips = condition.astype(self.dtype), []
        for level, convolutions in enumerate(encoder):
            x = block(convolutions, False, self.slope, **types, name=f'encoder_{level}')(x)
            skips.append(x)
        conv = Conv(8 * w, (3, 3), kernel_init=_glorot, **types, name='bottleneck')
        x = nn.tanh(conv(x))
        for level in (2, 1, 0):
            x = jnp.concatenate([x, skips.pop()], axis=-1)
            x = block(decoder[level], True, 0.0, **types, name=f'decoder_{level}')(x)
        x = _conv(5, self.channels, True, **types, name='out')(x)
        last: Callable[[Array], Array] = nn.tanh if self.channels == 2 else nn.relu
        return last(x.astype(jnp.float32))
